//! The protocol version of a connection.

use crate::core::error::ConfigError;

/// The protocol version that a URL requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP3, or RESP2 if the server rejects `HELLO`.
    #[default]
    Negotiated,
    /// RESP2. `HELLO` is never sent.
    Resp2,
    /// RESP3. A server that rejects `HELLO` is not used.
    Resp3,
}

/// The query parameters of a URL that contains a socket path.
const OF_SOCKET: &[&str] = &["db", "user", "pass", PARAMETER];

/// The query parameters of all other URLs.
const OF_HOST: &[&str] = &[PARAMETER];

const PARAMETER: &str = "protocol";

impl Protocol {
    /// Parses the `protocol` parameter of a URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the parameter's value is unknown, or if the URL has an unsupported
    /// parameter.
    pub(crate) fn from_url(url: &str) -> Result<Self, ConfigError> {
        let Some((base, query)) = url.split_once('?') else {
            return Ok(Self::default());
        };
        let known = match base.split_once(':') {
            Some((scheme, _)) if scheme.ends_with("unix") => OF_SOCKET,
            Some(_) | None => OF_HOST,
        };
        let mut found = Self::default();
        let mut seen = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if !known.contains(&name) || seen.contains(&name) {
                return Err(unknown());
            }
            seen.push(name);
            if name == PARAMETER {
                found = Self::parse(value)?;
            }
        }
        Ok(found)
    }

    fn parse(value: &str) -> Result<Self, ConfigError> {
        match value {
            "2" | "resp2" => Ok(Self::Resp2),
            "3" | "resp3" => Ok(Self::Resp3),
            _ => Err(refused(value)),
        }
    }

    /// Returns the version that all URLs of one store require.
    ///
    /// # Errors
    ///
    /// Returns an error if the URLs contradict one another.
    pub(crate) fn global(asked: impl Iterator<Item = Self>) -> Result<Self, ConfigError> {
        let mut explicit = asked.filter(|protocol| *protocol != Self::Negotiated);
        let first = explicit.next().unwrap_or_default();
        if explicit.all(|protocol| protocol == first) {
            return Ok(first);
        }
        let problem = "one URL requires RESP2 and another one RESP3";
        Err(ConfigError::new(PARAMETER, "2 and 3", problem).fix(FIX))
    }
}

const FIX: &str =
    "write `protocol=2` or `protocol=3` in all URLs, or drop it to use RESP3 where available";

fn refused(value: &str) -> ConfigError {
    // The rest of a URL may be part of a password that was not percent-encoded.
    let is_plain = value.len() <= 16 && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let shown = if is_plain { value } else { "not shown" };
    ConfigError::new(PARAMETER, shown, "it must be 2, resp2, 3 or resp3").fix(FIX)
}

/// Creates an error that contains no part of the URL, because the URL may contain a password.
fn unknown() -> ConfigError {
    let problem = "its query has an unsupported or repeated parameter";
    ConfigError::new("redis url", "not shown", problem).fix(
        "use `protocol`, and with a socket path `db`, `user` and `pass`, once each; set other \
         options by the methods of `RedisConfig`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_parameter_is_honored_or_refused() {
        for (query, protocol) in [
            ("", Protocol::Negotiated),
            ("?", Protocol::Negotiated),
            ("?protocol=2", Protocol::Resp2),
            ("?protocol=resp2", Protocol::Resp2),
            ("?protocol=3", Protocol::Resp3),
            ("?protocol=resp3", Protocol::Resp3),
        ] {
            for base in ["redis://h", "rediss://h/1", "redis+unix:///s"] {
                let read = Protocol::from_url(&format!("{base}{query}"));
                assert_eq!(read.unwrap(), protocol, "{base}{query}");
            }
        }
        for value in ["x", "", "1", "4", "RESP3", "resp3 ", "3#a", "2&protocol=3"] {
            let error = Protocol::from_url(&format!("redis://h?protocol={value}")).unwrap_err();
            let is_repeated = value.contains('&');
            let option = if is_repeated { "redis url" } else { "protocol" };
            assert_eq!(error.option(), option, "{value}");
        }
    }

    #[test]
    fn rejects_parameters_without_effect_and_shows_no_password() {
        for url in [
            "redis://h?db=3",
            "redis://h?pass=hunter2",
            "redis://h?timeout=5",
            "redis://unix:6379?db=3",
            "redis+unix:///s?database=3",
            "redis+unix:///s?pass=hunter2&pass=hunter2",
            "redis://u:1?protocol=hunter2@h",
        ] {
            let error = Protocol::from_url(url).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
        }
        assert!(Protocol::from_url("redis+unix:///s?db=3&user=u&pass=p").is_ok());
    }

    #[test]
    fn urls_of_one_store_must_agree() {
        use Protocol::{Negotiated, Resp2, Resp3};
        let all = |asked: &[Protocol]| Protocol::global(asked.iter().copied());
        assert_eq!(all(&[Negotiated, Negotiated]).unwrap(), Negotiated);
        assert_eq!(all(&[Negotiated, Resp2]).unwrap(), Resp2);
        assert_eq!(all(&[Resp3, Negotiated, Resp3]).unwrap(), Resp3);
        assert_eq!(all(&[Resp3, Resp2]).unwrap_err().option(), "protocol");
    }
}
