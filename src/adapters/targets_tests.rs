//! Which paths expressions and targets choose.

use super::*;

#[test]
fn regular_expressions_match_whole_paths() {
    for (expression, path, expected) in [
        (r".*\.attn\.c_attn", "transformer.h.0.attn.c_attn", true),
        (r".*\.attn\.c_attn", "transformer.h.0.attn.c_attn.x", false),
        (r".*layer\.[0-3]\.attention\.self\.(query|value)", "encoder.layer.2.attention.self.value", true),
        (r".*layer\.[0-3]\.attention\.self\.(query|value)", "encoder.layer.4.attention.self.value", false),
        (r".*\.\d+\.attn.*", "11.attn.c_proj", false),
        (r".*\.\d+\.attn.*", "t.h.11.attn.c_proj", true),
        (r"(a|b)+c?", "abab", true),
        (r"[^.]*", "a.b", false),
        (r"^x$", "x", true),
    ] {
        assert_eq!(Regex::new(expression).unwrap().matches(path), expected, "{expression} on {path}");
    }
    for malformed in ["(a", "a)", "[a", "*a", r"a\", "a)|(b"] {
        assert!(Regex::new(malformed).is_err(), "{malformed} should be refused");
    }
}

#[test]
fn a_hostile_expression_ends() {
    let regex = Regex::new("(a*)*(a*)*(a*)*b").unwrap();
    assert!(!regex.matches(&"a".repeat(200)));
}

#[test]
fn keys_of_patterns_match_the_end_of_a_path() {
    let ends = |key: &str, path| Regex::new(key).unwrap().matches_end(path);
    assert!(ends("c_fc", "transformer.h.0.mlp.c_fc"));
    assert!(ends("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"));
    assert!(!ends("fc", "transformer.h.0.mlp.c_fc"));
}

#[test]
fn targets_choose_by_name_layer_and_exception() {
    let paths = ["bert.encoder.layer.0.self.query", "bert.encoder.layer.1.self.query", "classifier"];
    let chosen = |targets: Targets| paths.map(|path| targets.choose(path, false));
    assert_eq!(chosen("all-linear".into()), [true, true, false]);
    assert_eq!(chosen(["query"].into()), [true, true, false]);
    assert_eq!(chosen(["uery"].into()), [false; 3]);
    assert_eq!(chosen(Targets::from(["query"]).in_layers(vec![1], vec![])), [false, true, false]);
    assert_eq!(chosen(Targets::from("*").except(["query"])), [false, false, true]);
    assert_eq!(chosen(Targets::from("*").in_layers(vec![0], vec!["layer".into()])), [true, false, false]);
}
