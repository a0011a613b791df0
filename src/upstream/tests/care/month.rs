//! The servers' month turns.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_filed_by_month_goes_on_after_the_turn_with_a_gap_around_it_and_nothing_else_has_one() {
    for (zone, turn) in [
        ("UTC", "2026-12-01T00:00:00Z"),
        ("Pacific/Auckland", "2026-11-30T11:00:00Z"),
        ("Pacific/Honolulu", "2026-12-01T10:00:00Z"),
    ] {
        let flavours = [Flavour::K4, Flavour::V4_3, Flavour::K5];
        for (flavour, ahead) in
            flavours.into_iter().flat_map(|flavour| [0, 90, -90].map(|ahead| (flavour, ahead)))
        {
            let turn = at(turn);
            let mut setup = Setup::starting(flavour, turn - 1000 * SECOND, ahead);
            setup.sim.time_zone = jiff::tz::TimeZone::get(zone).unwrap();
            setup.upstream.time_zone = setup.sim.time_zone.clone();
            let bindings =
                ["call.*.*", "object.doc_created.user", "object.doc_created.fax", "object.doc_edited.*"];
            let mut care = setup.start(&bindings).await;
            let mut expected = Vec::new();
            // The servers' turn, by our clock.
            let servers_turn = match u64::try_from(ahead) {
                Ok(ahead) => turn - Duration::from_secs(ahead),
                Err(_) => turn + Duration::from_secs(ahead.unsigned_abs()),
            };
            while care.now() < turn + 1000 * SECOND {
                let made = care.now();
                expected.push((made, care.document("user")));
                expected.push((made, care.document("fax")));
                care.wait(10 * SECOND).await;
            }
            let label = format!("{zone} {flavour} {ahead}");
            let gaps = care.gaps();
            let concerned = ["object.doc_created.fax", "object.doc_edited.*"];
            for gap in &gaps {
                assert_eq!(gap.reason, GapReason::MonthTurn, "{label}");
                assert!(
                    gap.bindings.iter().all(|binding| concerned.contains(&&**binding)),
                    "{label} {gap:?}"
                );
            }
            let of_fax: Vec<&Gap> = gaps
                .iter()
                .filter(|gap| gap.bindings.iter().any(|binding| **binding == *concerned[0]))
                .collect();
            let [opened, closed] = of_fax[..] else { panic!("{label} {gaps:#?}") };
            let (since, until) = (opened.start_time.unwrap(), closed.end_time.unwrap());
            assert!(since <= servers_turn && servers_turn <= until, "{label}");
            // No longer than the clocks may be off from each other.
            assert!(since >= turn - 121 * SECOND && until <= turn + 125 * SECOND, "{label}");

            let had: BTreeSet<String> = care
                .events()
                .into_iter()
                .map(|(_, key)| key.rsplit('.').next().unwrap().to_owned())
                .collect();
            let mut missed = 0;
            for (made, id) in expected {
                if !had.contains(&id) {
                    missed += 1;
                    assert!(id.starts_with("fax") && made >= since && made <= until, "{label} {id}");
                }
            }
            assert!(missed <= 7, "{label}: it is asked for again each minute around the turn: {missed}");
            care.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_zone_that_is_wrong_is_found_out_by_the_next_refresh() {
    for flavour in [Flavour::K4, Flavour::K5] {
        let turn = at("2026-11-30T11:00:00Z");
        let mut setup = Setup::starting(flavour, turn - 1000 * SECOND, 0);
        setup.sim.time_zone = jiff::tz::TimeZone::get("Pacific/Auckland").unwrap();
        let mut care = setup.start(&["call.*.*", "object.doc_created.fax"]).await;
        care.wait(1000 * SECOND).await;
        care.document("fax");
        care.wait(400 * SECOND).await;
        let (reason, since, until) = care.one_gap();
        assert_eq!(reason, GapReason::MonthTurn, "{flavour}");
        assert!(since <= turn && until >= turn && until <= turn + 301 * SECOND, "{flavour}");
        let id = care.document("fax");
        care.wait(SECOND).await;
        assert!(care.events().iter().any(|(_, key)| key.ends_with(&id)), "{flavour}");
        care.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_leftovers_of_a_month_are_a_reason_to_replace_the_session() {
    let turn = at("2026-12-01T00:00:00Z");
    for (binding, sessions) in [("object.doc_created.fax", 2), ("object.doc_created.user", 1)] {
        let care = Setup::starting(Flavour::K4, turn - 300 * SECOND, 0).start(&[binding]).await;
        care.wait(1100 * SECOND).await;
        assert_eq!(care.sim.connections_total(), sessions, "{binding}");
        care.stop().await;
    }
}
