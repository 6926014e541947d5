//! The glossary: phrases to avoid, each with its replacement.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::LazyLock,
};

use super::passages::MASK;

/// Words that several patterns name.
const CLASSES: [(&str, &str); 5] = [
    ("BE", "is|are|was|were|be|been|being"),
    ("GO", "go|goes|gone|went"),
    (
        "STORED",
        "answer|answers|response|responses|entry|entries|body|bodies|key|keys|record|records",
    ),
    (
        "SINGULAR",
        "a|an|the|its|their|our|no|every|each|another|any|whose|this|either|whole|*ed|*'s|*s'|\
         first|last|same|old|new|stale|fresh|kept|of|for|from|with|without|own|late|other|older|\
         newer|one|complete|final|good|wrong|right|two|three|many|such|some|only|both|all|few|\
         large|small|public|until|between|uniform|broken|lost",
    ),
    (
        "PLURAL",
        "a|an|the|its|their|our|no|whose|these|those|any|all|other|two|three|many|such|some|few|\
         of|for|from|with|without|between|only|both|large|small|same|old|new|stale|fresh|late|\
         kept|stored|cached|encrypted|compressed|shared|*'s",
    ),
];

const RESPONSE: &str = "response (HTTP), reply (Redis), decision (limiter)";
const STORED: &str = "stored, retained, separated";
const UNAVAILABLE: &str = "unavailable, unreachable, timed out";

/// Patterns and their replacements.
///
/// A pattern is a sequence of words. `a|b` is one of two words, `*` within a word stands for any
/// letters, and `_` is any word. A name in capitals is a class. `!a|b` at the start or at the end
/// excludes a word before or behind the match.
const PATTERNS: &[(&str, &str)] = &[
    ("SINGULAR answer", RESPONSE),
    ("PLURAL answers", RESPONSE),
    ("answers and|or|of|to|from", RESPONSE),
    ("answer of|from|that|which|whose|is|was", RESPONSE),
    (
        "let|lets|letting go !on|through|past|ahead|further|in",
        "remove, evict, release",
    ),
    (
        "let|lets|letting _ go !on|through|past|ahead|further|in",
        "remove, evict, release",
    ),
    (
        "let|lets|letting _ _ go !on|through|past|ahead|further|in",
        "remove, evict, release",
    ),
    ("anew", "again; revalidate, refresh, fill"),
    ("BE|not|nothing|never|still|longer kept !alive", STORED),
    (
        "kept apart|beside|for|under|of|by|until|in|as|whole|there|here|back|away|from|and|or|longer",
        STORED,
    ),
    (
        "keep|keeps|keeping nothing|something|anything|things|what|them|it|everything|one",
        "store, retain",
    ),
    ("keep|keeps|keeping STORED", "store, retain"),
    (
        "keep|keeps|keeping a|an|the|its STORED|digest|value|values|part|parts",
        "store, retain",
    ),
    ("former|formerly", "previous"),
    (
        "debt|debts|arrears|owe|owes|owed|owing",
        "deferred charge, outstanding",
    ),
    ("BE|GO|stay|stays|while|when away", UNAVAILABLE),
    (
        "server|store|node|master|replica|shard|redis away",
        UNAVAILABLE,
    ),
    (
        "BE|stay|stays|goes|go|went|falls|fell|server|store|node silent",
        UNAVAILABLE,
    ),
    ("say|says|said|saying nothing", "does not reply, times out"),
    (
        "whoever|whosoever|whomever|whichever",
        "client, caller, owner, peer",
    ),
    (
        "nobody|somebody|nobody's|somebody's|anyone's|anybody",
        "no caller, a caller, any client",
    ),
    (
        "beside",
        "in the background, concurrently, next to, in addition to",
    ),
    (
        "!are|is|*ly|of|with|at|for|in|to|against all the same",
        "still; or leave it out",
    ),
    ("by choice", "optional, opt-in"),
    (
        "of the|a user's|application's|caller's|handler's own",
        "custom",
    ),
    ("of the user's|users'", "the application's, custom"),
    ("as it|they|he came|come|comes", "unchanged"),
    ("what it|they takes|take", "the requirement by its name"),
    ("in|by|for whatever", "any"),
    ("of late", "recently"),
    ("so many|much !as|that", "the count by its name"),
    ("at all events", "in any case"),
    (
        "stand|stands|stood|standing in|at|there|here|around|beside|before|behind|between|on|\
         under|outside|inside|above|below|within|after",
        "is in, is at, precedes, represents",
    ),
    ("for less", "the lower bound or the cost by its name"),
    ("has|have|had|having to do with", "concerns, uses"),
    ("come|comes|came first", "is first, takes priority"),
    (
        "house|houses|gate-keeper|gatekeeper|knock|knocks|knocking|knocked",
        "the thing by its name",
    ),
    (
        "!no|has|have|without room|rooms !for|left|to",
        "capacity, space",
    ),
    ("ground|grounds", "reason, basis"),
    (
        "tell|tells|telling|told|untold",
        "report, return, notify, distinguish",
    ),
    ("hear|hears|hearing|heard", "receive, learn, notice"),
    ("!dancing bear|bears|bearing|borne|bore", "carry, have"),
    ("!state machines", "instances (processes), hosts, nodes"),
    (
        "each|every|one|another|other|single|several machine",
        "instance (a process), host, node",
    ),
    ("GO unheard|unseen|untold", "is lost, is dropped"),
    (
        "uncounted|unasked|unsaid",
        "unmetered, exempt; without a request",
    ),
    (
        "!rfc|section|specification|0 says",
        "states, returns, reports, specifies",
    ),
    ("said", "stated, returned, reported, specified"),
    ("wants|wanted", "requests, needs, accepts"),
    (
        "thereof|therein|hence|thence|whence|lest",
        "of it, in it, so",
    ),
    (
        "whilst|amongst|learnt|spelt",
        "while, among, learned, spelled",
    ),
    (
        "forgets|forgot|forgotten|forgetting",
        "evict, discard, lose",
    ),
    (
        "BE|never|not shown !below|above|here|in|by|once|only",
        "served",
    ),
    ("shows|show a|an|the|one|no answer|response|entry", "serve"),
    ("wish|wishes|wished|wishing", "request, option, preference"),
    (
        "lies|lie|lay in|on|at|near|before|behind|between|within|under|there|here",
        "is in, is stored",
    ),
    ("become|becomes|became of", "the outcome of"),
    ("at the most|least", "at most, at least"),
    ("turn|turns|turned|turning away", "reject"),
    ("sees|see to", "handles, ensures"),
    ("gives|give|gave|given way", "yields"),
    ("brings|bring about", "causes, starts"),
    ("under way", "in progress, in flight"),
    ("in the place of|where", "instead of; replaces"),
];

/// Returns the breaches of a masked text: an offset and a message each.
pub(super) fn breaches(text: &str) -> Vec<(usize, String)> {
    let words = words(text);
    let mut hits: Vec<(usize, Range<usize>)> = Vec::new();
    for at in 0..words.len() {
        let anchored = GLOSSARY.anchors.get(words[at].text.as_str());
        for (index, before) in anchored.into_iter().flatten() {
            let start = at.checked_sub(*before);
            let hit = start.and_then(|start| GLOSSARY.patterns[*index].find(&words, start));
            hits.extend(hit.map(|hit| (*index, hit)));
        }
    }
    hits.sort_by_key(|(index, hit)| (*index, hit.start));
    let mut taken = BTreeSet::new();
    let mut found = Vec::new();
    for (index, hit) in hits {
        if hit.clone().all(|word| !taken.contains(&word)) {
            taken.extend(hit.clone());
            let phrase: Vec<&str> = words[hit.clone()]
                .iter()
                .map(|word| word.text.as_str())
                .collect();
            let message = format!(
                "\"{}\": say {}",
                phrase.join(" "),
                GLOSSARY.patterns[index].say
            );
            found.push((words[hit.start].offset, message));
        }
    }
    found
}

static GLOSSARY: LazyLock<Glossary> = LazyLock::new(Glossary::new);

struct Glossary {
    patterns: Vec<Pattern>,
    /// The patterns by the words of their anchor, and the number of words before the anchor.
    anchors: HashMap<&'static str, Vec<(usize, usize)>>,
}

impl Glossary {
    fn new() -> Self {
        let patterns: Vec<Pattern> = PATTERNS
            .iter()
            .map(|(pattern, say)| Pattern::parse(pattern, say))
            .collect();
        let mut anchors = HashMap::<_, Vec<_>>::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let (before, anchor) = pattern.anchor();
            for word in &anchor.words {
                anchors.entry(*word).or_default().push((index, before));
            }
        }
        Self { patterns, anchors }
    }
}

struct Pattern {
    not_behind: Words,
    elements: Vec<Words>,
    not_before: Words,
    say: &'static str,
}

impl Pattern {
    fn parse(pattern: &'static str, say: &'static str) -> Self {
        let mut parsed = Self {
            not_behind: Words::default(),
            elements: Vec::new(),
            not_before: Words::default(),
            say,
        };
        for element in pattern.split(' ') {
            match element.strip_prefix('!') {
                None => parsed.elements.push(Words::parse(element)),
                Some(not) if parsed.elements.is_empty() => parsed.not_behind = Words::parse(not),
                Some(not) => parsed.not_before = Words::parse(not),
            }
        }
        parsed
    }

    /// Returns the most specific element, and the number of elements before it.
    fn anchor(&self) -> (usize, &Words) {
        let exact = self.elements.iter().enumerate();
        exact
            .filter(|(_, element)| element.is_exact())
            .min_by_key(|(_, element)| element.words.len())
            .expect("each pattern has an element without `*`")
    }

    /// Returns the words of a match that starts at a word.
    fn find(&self, words: &[Word], start: usize) -> Option<Range<usize>> {
        let end = start + self.elements.len();
        let matched = words.get(start..end)?;
        let fits = self
            .elements
            .iter()
            .zip(matched)
            .all(|(element, word)| element.holds(&word.text));
        let behind = start.checked_sub(1).map(|before| &words[before]);
        let excluded = behind.is_some_and(|word| self.not_behind.holds(&word.text))
            || words
                .get(end)
                .is_some_and(|word| self.not_before.holds(&word.text));
        (fits && !excluded).then_some(start..end)
    }
}

/// A set of words.
#[derive(Default)]
struct Words {
    words: Vec<&'static str>,
    globs: Vec<&'static str>,
    /// Whether any word is in the set.
    any: bool,
}

impl Words {
    fn parse(element: &'static str) -> Self {
        let mut parsed = Self::default();
        let class = |name: &'static str| CLASSES.iter().find(|(class, _)| *class == name);
        let expanded = element
            .split('|')
            .flat_map(|word| class(word).map_or(word, |(_, words)| words).split('|'));
        for word in expanded {
            match word {
                "_" => parsed.any = true,
                _ if word.contains('*') => parsed.globs.push(word),
                _ => parsed.words.push(word),
            }
        }
        parsed
    }

    fn is_exact(&self) -> bool {
        !self.any && self.globs.is_empty()
    }

    fn holds(&self, word: &str) -> bool {
        let is_word = word.starts_with(|next: char| next.is_alphabetic() || next == '`');
        (self.any && is_word)
            || self.words.contains(&word)
            || self.globs.iter().any(|glob| glob_matches(glob, word))
    }
}

/// Returns whether a text matches a pattern with `*` at its start, at its end, or at both.
pub(super) fn glob_matches(glob: &str, text: &str) -> bool {
    match (glob.strip_prefix('*'), glob.strip_suffix('*')) {
        (Some(_), Some(_)) => text.contains(glob.trim_matches('*')),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => text == glob,
    }
}

/// A word in lower case, or a punctuation mark. Inline code is a backtick, and a number is `0`.
struct Word {
    offset: usize,
    text: String,
}

fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let length = word_length(&text[at..], next);
        let skipped = next.is_whitespace() || next == char::from(MASK) || "*_[]".contains(next);
        if !skipped {
            let word = if next.is_ascii_digit() {
                "0".to_owned()
            } else {
                text[at..at + length].to_lowercase().replace('’', "'")
            };
            found.push(Word {
                offset: at,
                text: word,
            });
        }
        at += length;
    }
    found
}

/// Returns the length of a word; apostrophes and hyphens between letters are part of it.
fn word_length(rest: &str, next: char) -> usize {
    if !next.is_ascii_alphanumeric() {
        return next.len_utf8();
    }
    let joins = |next: char| next == '\'' || next == '’' || next == '-';
    let end = rest.find(|next: char| !next.is_ascii_alphanumeric() && !joins(next));
    rest[..end.unwrap_or(rest.len())]
        .trim_end_matches('-')
        .len()
}
