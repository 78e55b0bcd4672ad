//! The HTTP proxy for calls over https, and the hosts that are reached without it.

use std::sync::Arc;

use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// A proxy with its exceptions. Its Debug, and that of what [`Proxy::intercept`] returns, omit the password.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Matcher>);

impl Proxy {
    /// The proxy at `http://host:port` or `http://user:password@host:port`, for all hosts except those that `except` names:
    /// comma-separated hosts and domains (with all below them), addresses, CIDR blocks, or `*` (curl's `NO_PROXY`).
    ///
    /// # Errors
    /// What is wrong with the URL, without any part of it that may be secret.
    pub fn new(url: &str, except: &str) -> Result<Self, String> {
        let uri = url.parse::<Uri>().ok();
        // For the matcher `*` is every name, but no address.
        let all_addresses = if except.split(',').any(|entry| entry.trim() == "*") { ",0.0.0.0/0,::/0" } else { "" };
        let except = format!("{except}{all_addresses}");
        let well_formed = |uri: &Uri| {
            // The port is required, because tools differ in their default.
            let has_host = uri.host().is_some_and(|host| !host.is_empty());
            uri.scheme_str() == Some("http") && has_host && uri.port_u16().is_some() && ["", "/"].contains(&uri.path())
        };
        match uri.is_some_and(|uri| well_formed(&uri)) {
            // The matcher silently ignores a URL that it cannot parse, and would go on without a proxy: reject it here.
            true => Ok(Self(Arc::new(Matcher::builder().https(url).no(except).build()))),
            false if ["https:", "socks"].iter().any(|scheme| url.starts_with(scheme)) => {
                Err("only a proxy that is spoken to over plain http is supported".to_owned())
            }
            false => Err("is not a proxy URL".to_owned()),
        }
    }

    /// The proxy for that URL; none if it is not https or its host is an exception.
    pub(crate) fn intercept(&self, url: &Uri) -> Option<Intercept> {
        self.0.intercept(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_through(proxy: &Proxy, url: &'static str) -> bool {
        proxy.intercept(&Uri::from_static(url)).is_some()
    }

    #[test]
    fn only_https_goes_through_and_only_to_whom_is_no_exception() {
        let except = "ec2.eu-west-1.amazonaws.com, .internal,corp.example,10.0.0.0/8,fd00::/8,192.0.2.7";
        let proxy = Proxy::new("http://proxy:3128", except).unwrap();
        for url in [
            "https://ssm.eu-west-1.amazonaws.com/",
            "https://notcorp.example/",
            "https://11.0.0.1/",
            "https://192.0.2.8:8443/",
            "https://[2001:db8::1]/",
        ] {
            assert!(goes_through(&proxy, url), "{url}");
        }
        for url in [
            "http://ssm.eu-west-1.amazonaws.com/",
            "https://ec2.eu-west-1.amazonaws.com/",
            "https://vpce.internal/",
            "https://corp.example/",
            "https://a.corp.example/",
            "https://10.1.2.3/",
            "https://192.0.2.7/",
            "https://[fd00::1]/",
        ] {
            assert!(!goes_through(&proxy, url), "{url}");
        }
        let never = Proxy::new("http://proxy:3128", "x, *").unwrap();
        for url in ["https://x.example/", "https://192.0.2.8/", "https://[2001:db8::1]/"] {
            assert!(!goes_through(&never, url), "{url}");
        }
        assert!(goes_through(&Proxy::new("http://proxy:3128/", "").unwrap(), "https://x.example/"));
    }

    #[test]
    fn the_password_is_told_to_the_proxy_alone() {
        let proxy = Proxy::new("http://us%40er:hunter2@proxy:3128", "").unwrap();
        let intercept = proxy.intercept(&Uri::from_static("https://x.example/")).unwrap();
        // base64 of "us@er:hunter2"
        assert_eq!(intercept.basic_auth().unwrap(), "Basic dXNAZXI6aHVudGVyMg==");
        let shown = format!("{proxy:?} {intercept:?} {} {:?}", intercept.uri(), intercept.basic_auth());
        assert!(!shown.contains("hunter2") && !shown.contains("dXNAZXI6"), "{shown}");
    }

    #[test]
    fn a_url_that_is_no_http_proxy_is_refused() {
        for url in [
            "https://p:3128",
            "socks5://p:1080",
            "socks5h://u:hunter2@p:1080",
            "p:3128",
            "http://p",
            "http://p:3128/x",
            "http://u:hunter2",
            "http://:3128",
            "//p:3128",
            "http://p:port",
        ] {
            let error = Proxy::new(url, "").expect_err(url);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
