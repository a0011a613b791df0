//! Which accounts have series of their own, and which share one.
//!
//! There may be any number of accounts, and they come and go. The first ones have a label each, for as long as they are there;
//! those that come while all labels are taken have the label `other` together, also when one becomes free. So a counter never
//! moves from one series to another. What those in `other` have counted stays there when they go: it must not fall.

use std::{collections::BTreeMap, sync::Arc};

use crate::binding::AccountId;

use super::{
    account::{AccountCounts, Totals, add},
    count::Count,
    reading::{AccountReading, Delivered},
    samples::{Sample, Samples},
};

/// The label of the accounts that have none of their own.
const OTHER: &str = "other";

/// All accounts of which anything is counted.
#[derive(Debug)]
pub(super) struct Accounts {
    /// How many have a label.
    shown: usize,
    own: BTreeMap<AccountId, Arc<AccountCounts>>,
    others: BTreeMap<AccountId, Arc<AccountCounts>>,
    /// What those of `others` counted that are no more.
    gone: Totals,
    lines_suppressed: Arc<Count>,
}

impl Accounts {
    pub(super) fn new(shown: usize, lines_suppressed: Arc<Count>) -> Self {
        Self { shown, own: BTreeMap::new(), others: BTreeMap::new(), gone: Totals::new(), lines_suppressed }
    }

    /// The counts of an account. It is there from now on, for as long as somebody holds them, or it is read of.
    pub(super) fn get(&mut self, id: AccountId) -> Arc<AccountCounts> {
        if let Some(known) = self.known(&id) {
            return Arc::clone(known);
        }
        if self.own.len() >= self.shown {
            // Nobody may have scraped since one went.
            self.own.retain(|_, counts| Arc::strong_count(counts) > 1);
        }
        let into = if self.own.len() < self.shown { &mut self.own } else { &mut self.others };
        let counts = Arc::new(AccountCounts::new(Arc::clone(&self.lines_suppressed)));
        into.insert(id, Arc::clone(&counts));
        counts
    }

    fn known(&self, id: &AccountId) -> Option<&Arc<AccountCounts>> {
        self.own.get(id).or_else(|| self.others.get(id))
    }

    /// What is to be shown: of these accounts, to whose streams so much more was delivered. The others that nobody holds are
    /// forgotten.
    pub(super) fn read(
        &mut self,
        mut readings: BTreeMap<AccountId, AccountReading>,
        delivered: BTreeMap<AccountId, Delivered>,
    ) -> Samples {
        for id in readings.keys() {
            self.get(*id);
        }
        for (id, delivered) in delivered {
            if let Some(counts) = self.known(&id) {
                counts.delivered(delivered);
            }
        }
        let is_there = |id: &AccountId, counts: &mut Arc<AccountCounts>| {
            readings.contains_key(id) || Arc::strong_count(counts) > 1
        };
        self.own.retain(is_there);
        for (_, counts) in self.others.extract_if(.., |id, counts| !is_there(id, counts)) {
            add(&mut self.gone, counts.totals());
        }

        let mut sample = |(id, counts): (&AccountId, &Arc<AccountCounts>)| {
            (id.to_string(), Sample::new(counts, readings.remove(id)))
        };
        let mut samples: Vec<(String, Sample)> = self.own.iter().map(&mut sample).collect();
        let others = self.others.iter().map(sample).map(|(_, sample)| sample);
        let gone = (!self.gone.is_empty()).then(|| Sample::of_gone(self.gone.clone()));
        let others = others.chain(gone).reduce(|mut all, sample| {
            all.absorb(sample);
            all
        });
        samples.extend(others.map(|sample| (OTHER.to_owned(), sample)));
        Samples(samples)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::{
        binding::{Flavour, Kind},
        telemetry::metrics::{
            AccountReading, CommandPurpose, CommandResult, Dropped, Form, SessionEnd, State, family::Sheet,
        },
    };

    impl Accounts {
        fn showing(shown: usize) -> Self {
            Self::new(shown, Arc::default())
        }
    }

    fn id(number: usize) -> AccountId {
        format!("account{number:025}").parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn written(shown: usize) -> String {
        let mut accounts = Accounts::showing(shown);
        let mut readings = BTreeMap::new();
        for number in 0..5 {
            let account = accounts.get(id(number));
            account.received(100);
            account.frame(at(1000 + number as u64));
            account.event_dropped(Dropped::Duplicate);
            account.command_result(CommandPurpose::Bind, CommandResult::Done);
            std::mem::forget(account.session_opened());
            if number == 3 {
                account.session_opened().ended(SessionEnd::Silent);
            }
            let mut reading = AccountReading { logs: 2, log_bytes: 10, streams: 1, ..Default::default() };
            reading.stands(if number == 4 { State::Down } else { State::Live }, Some(Flavour::K4));
            reading.proven(Kind::Call, at(500 + number as u64));
            // As of a descendant.
            reading.proven(Kind::Call, at(400));
            reading.bindings(1, 2, 0);
            reading.reaches_back(Duration::from_secs(60 - number as u64));
            readings.insert(id(number), reading);
        }
        let mut sheet = Sheet::new(Form::Prometheus);
        accounts.read(readings, BTreeMap::new()).write(&mut sheet);
        sheet.finish()
    }

    fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
    }

    #[test]
    fn each_account_has_its_own_series() {
        let text = written(5);
        let of = |family: &str, number: usize, rest: &str| {
            let series = format!("{family}{{account=\"{}\"{rest}}}", id(number));
            value(&text, &series).map(str::to_owned)
        };
        for number in 0..5 {
            assert_eq!(
                of("hawking_upstream_up", number, "").as_deref(),
                Some(if number == 4 { "0" } else { "1" })
            );
            assert_eq!(of("hawking_upstream_sessions", number, "").as_deref(), Some("1"));
            let proven = of("hawking_upstream_proven_timestamp_seconds", number, ",kind=\"call\"");
            assert_eq!(
                proven,
                Some((500 + number).to_string()),
                "the last proof of those that one session serves"
            );
        }
        assert_eq!(of("hawking_upstream_state", 4, ",state=\"down\"").as_deref(), Some("1"));
        assert_eq!(of("hawking_upstream_state", 4, ",state=\"live\"").as_deref(), Some("0"));
        assert_eq!(
            of("hawking_upstream_sessions_ended_total", 3, ",reason=\"silent\"").as_deref(),
            Some("1")
        );
        assert_eq!(of("hawking_upstream_flavour_info", 0, ",flavour=\"k4\"").as_deref(), Some("1"));
        assert!(!text.contains(OTHER));
    }

    /// Whatever somebody configures, the number of series is bounded; what is shown together errs towards the worse.
    #[test]
    fn those_beyond_the_bound_are_shown_together() {
        let text = written(2);
        for (series, expected) in [
            ("hawking_upstream_up{account=\"other\"}", Some("0")),
            ("hawking_upstream_state{account=\"other\",state=\"live\"}", Some("2")),
            ("hawking_upstream_state{account=\"other\",state=\"down\"}", Some("1")),
            ("hawking_upstream_sessions{account=\"other\"}", Some("3")),
            ("hawking_upstream_sessions_ended_total{account=\"other\",reason=\"silent\"}", Some("1")),
            ("hawking_upstream_last_frame_timestamp_seconds{account=\"other\"}", Some("1002")),
            ("hawking_upstream_proven_timestamp_seconds{account=\"other\",kind=\"call\"}", Some("502")),
            ("hawking_upstream_received_bytes_total{account=\"other\"}", Some("300")),
            ("hawking_events_dropped_total{account=\"other\",reason=\"duplicate\"}", Some("3")),
            (
                "hawking_upstream_command_results_total{account=\"other\",purpose=\"bind\",result=\"done\"}",
                Some("3"),
            ),
            ("hawking_upstream_bindings{account=\"other\",state=\"pending\"}", Some("6")),
            ("hawking_logs{account=\"other\"}", Some("6")),
            ("hawking_log_window_seconds{account=\"other\"}", Some("56")),
            ("hawking_streams{account=\"other\"}", Some("3")),
            ("hawking_upstream_flavour_info{account=\"other\",flavour=\"k4\"}", None),
        ] {
            assert_eq!(value(&text, series), expected, "{series}");
        }
        let labels: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.split_once("account=\"")?.1.split_once('"'))
            .map(|(label, _)| label)
            .collect();
        assert_eq!(labels.len(), 3, "{labels:?}");
    }

    /// A counter that falls looks to Prometheus as if it had begun anew, and all that it says then as if it had just happened.
    #[test]
    fn a_counter_stays_in_its_series_whoever_comes_and_goes() {
        let mut accounts = Accounts::showing(2);
        let mut held = BTreeMap::new();
        let scrape = |accounts: &mut Accounts, there: &[usize], delivered: &[(usize, u64)]| {
            let reading = |number: &usize| (id(*number), AccountReading { logs: 1, ..Default::default() });
            let given =
                |(number, events): &(usize, u64)| (id(*number), Delivered { events: *events, bytes: 0 });
            let mut sheet = Sheet::new(Form::Prometheus);
            let samples =
                accounts.read(there.iter().map(reading).collect(), delivered.iter().map(given).collect());
            samples.write(&mut sheet);
            sheet.finish()
        };
        let of = |text: &str, label: &str, family: &str| {
            value(text, &format!("{family}{{account=\"{label}\"}}")).map(str::to_owned)
        };
        let bytes = |text: &str, number: usize| {
            of(text, id(number).as_str(), "hawking_upstream_received_bytes_total")
        };
        let others = |text: &str| of(text, OTHER, "hawking_upstream_received_bytes_total");
        let some = |text: &str| Some(text.to_owned());

        for number in [2, 3, 4] {
            let counts = accounts.get(id(number));
            counts.received(10 * number);
            held.insert(number, counts);
        }
        let text = scrape(&mut accounts, &[2, 3, 4], &[(4, 4)]);
        assert_eq!((bytes(&text, 2), bytes(&text, 3), others(&text)), (some("20"), some("30"), some("40")));

        // One whose id comes before all of them takes nobody's place.
        held.insert(1, accounts.get(id(1)));
        held[&1].received(10);
        let text = scrape(&mut accounts, &[1, 2, 3, 4], &[]);
        assert_eq!((bytes(&text, 1), bytes(&text, 3), others(&text)), (None, some("30"), some("50")));

        // The series of one that goes end. Nobody gets out of `other` for that.
        held.remove(&2);
        let text = scrape(&mut accounts, &[1, 3, 4], &[]);
        assert_eq!((bytes(&text, 2), bytes(&text, 1), others(&text)), (None, None, some("50")));

        // What those in `other` have counted stays there, also that of their last moments.
        held.remove(&4);
        let text = scrape(&mut accounts, &[1, 3], &[(4, 6)]);
        assert_eq!(others(&text), some("50"));
        assert_eq!(of(&text, OTHER, "hawking_deliveries_total"), some("10"));
        assert_eq!(of(&text, OTHER, "hawking_logs"), some("1"));
        held.remove(&1);
        let text = scrape(&mut accounts, &[3], &[]);
        assert_eq!(others(&text), some("50"));
        assert_eq!(of(&text, OTHER, "hawking_logs"), None, "nobody is there of whom it could be said");

        // Who comes next has the free place; and who had it and comes back begins at nothing, wherever that is.
        held.insert(5, accounts.get(id(5)));
        held[&5].received(5);
        held.insert(2, accounts.get(id(2)));
        held[&2].received(2);
        let text = scrape(&mut accounts, &[2, 3, 5], &[(9, 1)]);
        assert_eq!((bytes(&text, 5), bytes(&text, 2), others(&text)), (some("5"), None, some("52")));
        assert_eq!(of(&text, OTHER, "hawking_deliveries_total"), some("10"), "not of one that is not there");

        // A place is free at once, also where nobody scrapes.
        held.remove(&5);
        held.insert(6, accounts.get(id(6)));
        held[&6].received(6);
        assert_eq!(bytes(&scrape(&mut accounts, &[2, 3, 6], &[]), 6), some("6"));
    }
}
