//! Structured fields (RFC 9651): the subset of dictionaries that cache directives use.

/// The value of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Integer(i64),
    Boolean(bool),
    /// A string or a token.
    Text(String),
    /// A type that no directive has.
    Other,
}

/// Parses a dictionary from the joined lines of a field. Returns `None` if any part is invalid: the
/// whole field is then ignored.
pub(crate) fn dictionary(field: &str) -> Option<Vec<(&str, Item)>> {
    let mut rest = Rest(field.trim_matches(' '));
    let mut members: Vec<(&str, Item)> = Vec::new();
    while !rest.0.is_empty() {
        let key = rest.key()?;
        let item = match rest.take('=') {
            true => rest.member()?,
            false => Item::Boolean(true),
        };
        rest.parameters()?;
        // The last of several equal keys applies.
        members.retain(|(other, _)| *other != key);
        members.push((key, item));
        rest.space();
        if rest.0.is_empty() {
            break;
        }
        if !rest.take(',') {
            return None;
        }
        rest.space();
        if rest.0.is_empty() {
            return None;
        }
    }
    Some(members)
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, wanted: char) -> bool {
        let rest = self.0.strip_prefix(wanted);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let end = self.0.bytes().position(|byte| !wanted(byte));
        let (taken, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    fn space(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn key(&mut self) -> Option<&'a str> {
        let begins = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'*';
        self.0.as_bytes().first().filter(|byte| begins(byte))?;
        Some(self.take_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        }))
    }

    /// Parses an item or an inner list.
    fn member(&mut self) -> Option<Item> {
        if !self.take('(') {
            return self.item();
        }
        loop {
            self.take_while(|byte| byte == b' ');
            if self.take(')') {
                return Some(Item::Other);
            }
            self.item()?;
            self.parameters()?;
            if !self.0.starts_with([' ', ')']) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Item> {
        match self.0.bytes().next()? {
            b'"' => self.string().map(Item::Text),
            b'?' => self.boolean(),
            b':' => self.bytes(),
            b'-' | b'0'..=b'9' => self.number(),
            b'@' => {
                self.take('@');
                matches!(self.number()?, Item::Integer(_)).then_some(Item::Other)
            }
            byte if byte.is_ascii_alphabetic() || byte == b'*' => {
                let token = self.take_while(|byte| {
                    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
                });
                Some(Item::Text(token.to_owned()))
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut letters = self.0.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(text);
                }
                '\\' => match letters.next()?.1 {
                    escaped @ ('"' | '\\') => text.push(escaped),
                    _ => return None,
                },
                ' '..='~' => text.push(letter),
                _ => return None,
            }
        }
        None
    }

    fn boolean(&mut self) -> Option<Item> {
        self.take('?');
        let value = self.take('1');
        (value || self.take('0')).then_some(Item::Boolean(value))
    }

    fn bytes(&mut self) -> Option<Item> {
        self.take(':');
        self.take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
        self.take(':').then_some(Item::Other)
    }

    fn number(&mut self) -> Option<Item> {
        let negative = self.take('-');
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.take('.') {
            let decimals = self.take_while(|byte| byte.is_ascii_digit());
            let short = (1..=3).contains(&decimals.len()) && digits.len() <= 12;
            return short.then_some(Item::Other);
        }
        let number: i64 = digits.parse().ok()?;
        Some(Item::Integer(if negative { -number } else { number }))
    }

    /// Parses parameters, which a cache ignores.
    fn parameters(&mut self) -> Option<()> {
        while self.take(';') {
            self.take_while(|byte| byte == b' ');
            self.key()?;
            if self.take('=') {
                self.item()?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_by_their_types() {
        let read = dictionary(
            "a=1, b , c=\"x \\\"y\\\"\";p=1;q, d=tok/en,e=?0, f=1.5, g=:YQ==:, h=(1 \"a\";p 2)",
        );
        let text = |text: &str| Item::Text(text.to_owned());
        assert_eq!(
            read.unwrap(),
            [
                ("a", Item::Integer(1)),
                ("b", Item::Boolean(true)),
                ("c", text("x \"y\"")),
                ("d", text("tok/en")),
                ("e", Item::Boolean(false)),
                ("f", Item::Other),
                ("g", Item::Other),
                ("h", Item::Other),
            ]
        );
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(dictionary("a=1, a=-2").unwrap(), [("a", Item::Integer(-2))]);
    }

    #[test]
    fn one_malformed_member_invalidates_the_list() {
        for field in [
            "a=1,",
            "a=1,,b",
            "A=1",
            "a=",
            "a=&",
            "a =1",
            "a=\"x",
            "a=1 b=2",
            "a=1.2345",
            "a=(1",
            "a=1;",
            "a=?2",
            "a=1234567890123456",
            "é",
        ] {
            assert_eq!(dictionary(field), None, "{field}");
        }
    }

    #[test]
    fn nothing_is_an_empty_dictionary() {
        assert_eq!(dictionary("  "), Some(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn no_field_makes_it_panic(field in "[a-c=1,;?:\"\\\\() é.-]{0,24}") {
            let _ = dictionary(&field);
        }
    }
}
