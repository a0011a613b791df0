//! Where things are: URLs of the upstream, addresses to listen on.

use std::net::SocketAddr;

use url::Url;

use super::{Form, Found, quote, text};
use crate::config::tree::{Node, Value};

/// A URL of one of two schemes.
pub(crate) struct WebUrl {
    schemes: [&'static str; 2],
    example: &'static str,
}

/// `http` or `https`, for Crossbar.
pub(crate) const CROSSBAR: WebUrl = WebUrl { schemes: ["http", "https"], example: "http://crossbar:8000/" };

/// `ws` or `wss`, for blackhole.
pub(crate) const BLACKHOLE: WebUrl = WebUrl { schemes: ["ws", "wss"], example: "ws://blackhole:5555/" };

impl Form for WebUrl {
    type Value = Url;

    fn expected(&self) -> String {
        let [plain, tls] = self.schemes;
        format!("a {plain} or {tls} URL such as {:?}, without user, query or fragment", self.example)
    }

    fn parse(&self, node: &Node) -> Result<Url, Found> {
        let found = || {
            Found(match &node.value {
                // A password may stand in a URL's user part, a token in its query.
                Value::Text(text) | Value::Variable(text) if text.contains(['@', '?', '#']) => {
                    "a URL with user, query or fragment (not shown)".to_owned()
                }
                _ => node.describe(),
            })
        };
        let mut url = Url::parse(text(node).map_err(|_| found())?).map_err(|_| found())?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain || !self.schemes.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
            return Err(found());
        }
        // Paths are joined to Crossbar's URL: without the slash its last segment would be replaced.
        if self.schemes[0] == "http" && !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(url)
    }

    fn show(&self, value: &Url) -> Option<String> {
        Some(quote(value.as_str()))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// An address to listen on.
pub(crate) struct Address;

impl Form for Address {
    type Value = SocketAddr;

    fn expected(&self) -> String {
        "an IP address and a port such as \"127.0.0.1:50051\", \"0.0.0.0:50051\" or \"[::]:50051\"".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<SocketAddr, Found> {
        text(node)?.parse().map_err(|_| node.into())
    }

    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quote(&value.to_string()))
    }
}
