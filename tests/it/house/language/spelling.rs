//! Misspelled words and British spellings, by public word lists.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use unicase::UniCase;
use varcon::{Category, Variant};

/// Words that the lists refuse and the crate may use.
const ALLOWED: [&str; 6] = [
    // A status of gRPC.
    "CANCELLED",
    // Possessives in names of tests.
    "anothers",
    "policys",
    // A cut-off address of a host.
    "exampl",
    // Look-alikes: letters that people confuse.
    "alikes",
    // A planted misspelling of a tier.
    "fre",
];

const MIN_LETTERS: usize = 3;

/// Returns a message for each misspelled word of a line. Identifiers are split into words.
pub(super) fn breaches(line: &str) -> Vec<String> {
    let words = words(line).into_iter();
    let refused = words.filter(|word| !ALLOWED.contains(word));
    refused
        .filter_map(|word| {
            let fix = correction(word)?;
            Some(format!("\"{word}\": spell it {fix}"))
        })
        .collect()
}

fn correction(word: &str) -> Option<String> {
    let misspelled = typos_dict::WORD.find(&UniCase::new(word));
    let american = || AMERICAN.get(word.to_lowercase().as_str());
    misspelled
        .map(|fixes| fixes.join(" or "))
        .or_else(|| american().map(|fix| (*fix).to_owned()))
}

/// The American spelling of each word that American English does not use.
static AMERICAN: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let is_american = |variant: &&Variant| {
        let mut types = variant.types.iter();
        types.any(|kind| kind.category == Category::American)
    };
    let entries = || varcon::VARCON.iter().flat_map(|cluster| cluster.entries);
    let variants = entries().flat_map(|entry| entry.variants);
    let american: HashSet<&str> = variants
        .filter(is_american)
        .map(|variant| variant.word)
        .collect();
    let mut found = HashMap::new();
    for entry in entries() {
        if let Some(preferred) = entry.variants.iter().find(is_american) {
            let others = entry.variants.iter().map(|variant| variant.word);
            let foreign = others.filter(|word| !american.contains(word));
            found.extend(foreign.map(|word| (word, preferred.word)));
        }
    }
    found
});

/// Returns the words of a line: runs of letters, split where lower case turns into upper case.
fn words(line: &str) -> Vec<&str> {
    let runs = line.split(|next: char| !next.is_alphanumeric());
    let plain = runs.filter(|run| run.chars().all(|next| next.is_ascii_alphabetic()));
    plain
        .flat_map(humps)
        .filter(|word| word.len() >= MIN_LETTERS)
        .collect()
}

/// Splits `camelCase` into its words.
fn humps(run: &str) -> Vec<&str> {
    let bytes = run.as_bytes();
    let starts_hump =
        |at: &usize| bytes[*at].is_ascii_uppercase() && bytes[*at - 1].is_ascii_lowercase();
    let mut starts = vec![0];
    starts.extend((1..run.len()).filter(starts_hump));
    let ends = starts[1..].iter().copied().chain([run.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &run[*start..end])
        .collect()
}
