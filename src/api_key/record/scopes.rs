//! Scopes of keys and scope requirements of routes.

use std::sync::atomic::AtomicBool;

use crate::core::{error::ConfigError, identity::Identity, notice};

const SCOPE_LEN_MAX: usize = 128;

/// Returns `true` if this is a valid scope: 1 to 128 of the characters that RFC 6749 section 3.3
/// allows, so that a challenge can contain it.
pub(crate) fn is_scope(scope: &str) -> bool {
    let plain = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (1..=SCOPE_LEN_MAX).contains(&scope.len()) && scope.bytes().all(plain)
}

/// The scope requirement of a layer.
#[derive(Clone, Debug)]
pub(crate) enum Requirement {
    /// An identity with any scopes.
    Nothing,
    /// Each of these scopes.
    All(Vec<String>),
    /// At least one of these scopes.
    Any(Vec<String>),
}

impl Requirement {
    pub(crate) fn all<I>(scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        checked(scopes).map(Self::All)
    }

    pub(crate) fn any<I>(scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        checked(scopes).map(Self::Any)
    }

    /// Replaces [`Nothing`](Self::Nothing) by a requirement. Fails if scopes are already required.
    pub(crate) fn then<I>(
        self,
        scopes: I,
        make: impl FnOnce(I) -> Result<Self, ConfigError>,
    ) -> Result<Self, ConfigError> {
        match self {
            Self::Nothing => make(scopes),
            Self::All(_) | Self::Any(_) => {
                let problem =
                    "scopes are required by two calls; the second would replace the first";
                Err(
                    ConfigError::new("scopes", self.to_challenge(), problem).fix(
                        "pass all scopes in one call; for those of a route, use `RequireScopesLayer`",
                    ),
                )
            }
        }
    }

    /// Reports once that a caller's scope differs from a required one only in case.
    pub(crate) fn report_case(&self, caller: &Identity) {
        static SAID: AtomicBool = AtomicBool::new(false);

        let wanted = match self {
            Self::Nothing => return,
            Self::All(scopes) | Self::Any(scopes) => scopes,
        };
        let differs = |wanted: &str, own: &str| wanted != own && wanted.eq_ignore_ascii_case(own);
        let alike = wanted
            .iter()
            .filter(|wanted| !caller.has_scope(wanted))
            .find_map(|wanted| Some((wanted, caller.scopes().find(|own| differs(wanted, own))?)));
        if let Some((wanted, own)) = alike {
            notice::misconfigured(&SAID, || {
                let problem = format!("a rejected key has the scope `{own}`");
                ConfigError::new("scopes", wanted, problem)
                    .fix("use one spelling for the scopes of routes and keys")
            });
        }
    }

    pub(crate) fn is_met_by(&self, identity: &Identity) -> bool {
        match self {
            Self::Nothing => true,
            Self::All(scopes) => scopes.iter().all(|scope| identity.has_scope(scope)),
            Self::Any(scopes) => scopes.iter().any(|scope| identity.has_scope(scope)),
        }
    }

    /// Returns the scopes separated by spaces, as in a challenge.
    pub(crate) fn to_challenge(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::All(scopes) | Self::Any(scopes) => scopes.join(" "),
        }
    }
}

fn checked<I>(scopes: I) -> Result<Vec<String>, ConfigError>
where
    I: IntoIterator,
    I::Item: Into<String>,
{
    let scopes: Vec<String> = scopes.into_iter().map(Into::into).collect();
    if scopes.is_empty() {
        return Err(
            ConfigError::new("scopes", "empty", "at least one scope is required")
                .fix("pass a scope, or require only an identity with `RequireScopesLayer::none`"),
        );
    }
    if let Some(wrong) = scopes.iter().find(|scope| !is_scope(scope)) {
        return Err(ConfigError::new(
            "scopes",
            wrong.escape_debug(),
            "a scope is 1 to 128 visible ASCII characters, without quotes, backslashes and spaces",
        )
        .fix("use a name like `orders.read`"));
    }
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Identity {
        Identity::builder("k").scopes(["a", "b"]).build()
    }

    #[test]
    fn all_asks_for_each_and_any_for_one() {
        let met = |requirement: Result<Requirement, _>| requirement.unwrap().is_met_by(&caller());
        assert!(met(Requirement::all(["a", "b"])));
        assert!(!met(Requirement::all(["a", "c"])));
        assert!(met(Requirement::any(["c", "b"])));
        assert!(!met(Requirement::any(["c", "d"])));
        assert!(Requirement::Nothing.is_met_by(&caller()));
    }

    #[test]
    fn a_scope_that_would_break_a_challenge_is_refused() {
        for wrong in ["", "a b", "a\"b", "a\\b", "a\nb", "ä", &"a".repeat(129)] {
            assert!(Requirement::all([wrong]).is_err(), "{wrong:?}");
        }
        assert!(Requirement::any(Vec::<String>::new()).is_err());
    }
}
