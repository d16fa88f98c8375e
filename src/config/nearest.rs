//! Guesses which name was meant.

/// `did you mean NAME?` when one is near, otherwise all that are known.
pub(super) fn suggestion(found: &str, known: &[&'static str]) -> String {
    let nearest = known.iter().map(|name| (distance(found, name), *name)).min();
    match nearest {
        // A third of the letters: typing errors and a missing or extra word part, not another word.
        Some((changes, name)) if changes <= name.len().max(6) / 3 => format!("did you mean {name}?"),
        _ => format!("known are {}", known.join(", ")),
    }
}

/// How many letters have to be inserted, deleted or replaced to get from one name to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a.to_ascii_lowercase() != b.to_ascii_lowercase());
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_insertions_deletions_and_replacements() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("lisen", "listen"), 1);
        assert_eq!(distance("listenn", "listen"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_far_name_gets_the_whole_list() {
        assert_eq!(suggestion("retries", &["listen", "log"]), "known are listen, log");
        assert_eq!(suggestion("lag", &["listen", "log"]), "did you mean log?");
    }
}
