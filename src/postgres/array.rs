//! Arrays in their text form (PostgreSQL documentation, "Array Input and Output Syntax").

/// The elements of an array that is not an array of arrays; `None` is null.
pub(crate) fn elements(text: &str) -> Option<Vec<Option<String>>> {
    // Bounds other than 1 stand before it: `[0:1]={a,b}`.
    let unbound = match text.strip_prefix('[') {
        Some(bound) => bound.split_once("]=")?.1,
        None => text,
    };
    let mut rest = unbound.strip_prefix('{')?;
    let mut elements = Vec::new();
    if rest == "}" {
        return Some(elements);
    }
    loop {
        let (element, after) = element(rest)?;
        elements.push(element);
        match after {
            "}" => return Some(elements),
            _ => rest = after.strip_prefix(',')?,
        }
    }
}

fn element(text: &str) -> Option<(Option<String>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (element, rest) = text.split_at(text.find([',', '}'])?);
        // Arrays in arrays have no names.
        let plain = !element.is_empty() && !element.contains(['{', '"', '\\']);
        let element = if element.eq_ignore_ascii_case("null") { None } else { Some(element.to_owned()) };
        return plain.then_some((element, rest));
    };
    let mut element = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((Some(element), &quoted[at + 1..])),
            '\\' => element.push(letters.next()?.1),
            _ => element.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_text_are_taken_apart() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(elements("{}"), Some(vec![]));
        assert_eq!(
            elements("{a,NULL,\"NULL\",\"\",é}"),
            Some(vec![some("a"), None, some("NULL"), some(""), some("é")])
        );
        assert_eq!(
            elements(r#"{"a,b","say \"hi\" \\ }"}"#),
            Some(vec![some("a,b"), some("say \"hi\" \\ }")])
        );
        assert_eq!(elements("[-1:0]={a,\"]={\"}"), Some(vec![some("a"), some("]={")]));
        for wrong in ["", "a", "{a", "{a,}", "{\"a}", "{{a},{b}}", "{a}b", "[0:1]", "[0:0][0:0]={{a}}"] {
            assert_eq!(elements(wrong), None, "{wrong}");
        }
    }
}
