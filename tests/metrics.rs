//! The measures agree with scikit-learn, scipy and sacrebleu on stored cases, and with figures by hand.

use engrad::metrics::{
    Bleu, BleuScore, Chrf, Confusion, RougeL, Tokenization, mean_absolute_error, mean_squared_error,
    paired_t_test, pearson, ranks, spearman,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Two ways to sum the same few hundred numbers in f64 differ by less, in parts of the larger.
const ROUNDING: f64 = 1e-12;

fn stored(kind: &str) -> Vec<Value> {
    let folder = std::env::var("ENGRAD_GOLDEN").unwrap_or_else(|_| "tests/golden".into());
    let text = std::fs::read_to_string(format!("{folder}/metrics/metrics.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn read<T: DeserializeOwned>(case: &Value, key: &str) -> T {
    serde_json::from_value(case[key].clone()).unwrap_or_else(|error| panic!("{key}: {error}"))
}

#[track_caller]
fn assert_near(name: &str, found: f64, expected: f64) {
    let near = (found - expected).abs() <= ROUNDING * expected.abs().max(1.0);
    assert!(near || (found.is_nan() && expected.is_nan()), "{name}: found {found}, expected {expected}");
}

#[test]
fn class_measures_agree_with_scikit_learn() {
    let cases = stored("classification");
    assert_eq!(cases.len(), 9);
    for case in &cases {
        let confusion =
            Confusion::new(&read::<Vec<u32>>(case, "labels"), &read::<Vec<u32>>(case, "predictions"));
        let table: Vec<Vec<u64>> = read(case, "confusion");
        for (label, row) in table.iter().enumerate() {
            for (answer, count) in row.iter().enumerate() {
                assert_eq!(confusion.count(label, answer), *count, "{label} answered as {answer}");
            }
        }
        assert_eq!(confusion.classes(), table.len());
        assert_near("accuracy", confusion.accuracy(), read(case, "accuracy"));
        assert_near("matthews", confusion.matthews(), read(case, "matthews"));
        assert_near("f1_macro", confusion.f1_macro(), read(case, "f1_macro"));
        assert_near("f1_micro", confusion.accuracy(), read(case, "f1_micro"));
        if table.len() == 2 {
            assert_near("f1", confusion.f1(1), read(case, "f1"));
            assert_near("precision", confusion.precision(1), read(case, "precision"));
            assert_near("recall", confusion.recall(1), read(case, "recall"));
        }
    }
}

#[test]
fn number_measures_agree_with_scipy() {
    let cases = stored("regression");
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let (x, y): (Vec<f64>, Vec<f64>) = (read(case, "x"), read(case, "y"));
        assert_near("pearson", pearson(&x, &y), read(case, "pearson"));
        assert_near("spearman", spearman(&x, &y), read(case, "spearman"));
        assert_near("mse", mean_squared_error(&x, &y), read(case, "mse"));
        assert_near("mae", mean_absolute_error(&x, &y), read(case, "mae"));
    }
}

#[test]
fn a_list_with_nan_correlates_with_nothing() {
    for correlation in [pearson, spearman] {
        assert!(correlation(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0]).is_nan());
        assert!(correlation(&[f64::NAN; 3], &[1.0, 2.0, 3.0]).is_nan());
    }
}

#[test]
fn correlations_hold_for_numbers_whose_squares_do_not_fit() {
    let expected = pearson(&[1.0, 2.0, 4.0], &[3.0, 5.0, 4.0]);
    for scale in [1e-300, 1e-170, 1e170, 1e300] {
        let x = [1.0, 2.0, 4.0].map(|x| x * scale);
        assert_near(&format!("{scale:e}"), pearson(&x, &[3.0, 5.0, 4.0]), expected);
    }
}

/// sacrebleu's texts: each hypothesis, and its references, which are stored set by set.
fn texts(case: &Value) -> (Vec<String>, Vec<Vec<String>>) {
    let (hypotheses, sets): (Vec<String>, Vec<Vec<String>>) =
        (read(case, "hypotheses"), read(case, "references"));
    let references = (0..hypotheses.len()).map(|at| sets.iter().map(|set| set[at].clone()).collect());
    (hypotheses.clone(), references.collect())
}

#[track_caller]
fn assert_bleu(name: &str, found: &BleuScore, expected: &Value) {
    assert_eq!(found.found.to_vec(), read::<Vec<u64>>(expected, "counts"), "{name}");
    assert_eq!(found.total.to_vec(), read::<Vec<u64>>(expected, "totals"), "{name}");
    assert_eq!(found.hypothesis_length, read::<u64>(expected, "sys_len"), "{name}");
    assert_eq!(found.reference_length, read::<u64>(expected, "ref_len"), "{name}");
    assert_near(name, found.brevity_penalty, read(expected, "bp"));
    assert_near(name, found.score, read(expected, "score"));
    for (found, expected) in found.precisions.iter().zip(read::<Vec<f64>>(expected, "precisions")) {
        assert_near(name, *found, expected);
    }
}

#[test]
fn text_measures_agree_with_sacrebleu() {
    let cases = stored("text");
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let (hypotheses, references) = texts(case);
        let bleu = |tokenization| Bleu { tokenization, ..Bleu::default() }.corpus(&hypotheses, &references);
        assert_bleu("bleu_13a", &bleu(Tokenization::V13a), &case["bleu_13a"]);
        assert_bleu("bleu_none", &bleu(Tokenization::Whitespace), &case["bleu_none"]);
        assert_bleu("bleu_char", &bleu(Tokenization::Characters), &case["bleu_char"]);
        let lowercase = Bleu { lowercase: true, ..Bleu::default() }.corpus(&hypotheses, &references);
        assert_near("bleu_13a_lowercase", lowercase.score, read(case, "bleu_13a_lowercase"));
        assert_near("chrf", Chrf::default().corpus(&hypotheses, &references), read(case, "chrf"));
        assert_near("chrf++", Chrf { word_orders: 2 }.corpus(&hypotheses, &references), read(case, "chrf++"));
        let single = Bleu { effective_order: true, ..Bleu::default() };
        let expected: Vec<f64> = read(case, "sentence_bleu_exp_effective");
        for ((hypothesis, references), expected) in hypotheses.iter().zip(&references).zip(expected) {
            let found = single.corpus(&[hypothesis], std::slice::from_ref(references));
            assert_near("sentence_bleu_exp_effective", found.score, expected);
        }
    }
}

#[test]
fn texts_are_cut_into_words_as_mteval_v13a_cuts_them() {
    // Expected: sacrebleu 2.6.0's tokenizer 13a.
    let rows = [
        ("Hello, world!", "Hello , world !"),
        ("It's $1,000.50 (about 3-4%).", "It's $ 1,000.50 ( about 3 - 4 % ) ."),
        ("a.b,c...d", "a . b , c . . . d"),
        ("&quot;x&quot; &amp;lt; y", "\" x \" < y"),
        ("well-known 2-fold -5", "well-known 2 - fold -5"),
        ("caf\u{e9}\u{a0}au lait\u{1f}.", "caf\u{e9} au lait ."),
        ("<skipped>no-\nthing\nhere", "nothing here"),
        ("", ""),
    ];
    for (text, expected) in rows {
        assert_eq!(Tokenization::V13a.words(text).join(" "), expected, "{text:?}");
    }
}

#[test]
fn hypotheses_may_have_different_numbers_of_references() {
    // Expected: sacrebleu 2.6.0 with None for the reference that is missing.
    let hypotheses = ["the cat sat on the mat", "a dog barked at me"];
    let references = [vec!["the cat sat on a mat", "there is a cat on the mat"], vec!["a dog barked at him"]];
    assert_near("bleu", Bleu::default().corpus(&hypotheses, &references).score, 67.5160948099453);
    assert_near("chrf", Chrf::default().corpus(&hypotheses, &references), 74.91237154522254);
}

#[test]
fn rouge_l_is_that_of_its_paper() {
    // Lin 2004, section 3: one reference, precision and recall weigh the same.
    let equal = RougeL { beta: 1.0, ..RougeL::default() };
    let reference = [vec!["police killed the gunman"]];
    for (hypothesis, expected) in [
        ("police kill the gunman", 75.0),
        ("the gunman kill police", 50.0),
        ("Police killed the gunman", 100.0),
        ("", 0.0),
    ] {
        assert_near(hypothesis, equal.corpus(&[hypothesis], &reference), expected);
    }
    // Best precision 2/2 from the second reference, best recall 3/4 would need the first: 2/2 and 2/3.
    let two = [vec!["a b x y z", "a b c"]];
    let (precision, recall) = (1.0, 2.0 / 3.0);
    let expected = 100.0 * 2.44 * precision * recall / (recall + 1.44 * precision);
    assert_near("two references", RougeL::default().corpus(&["a b"], &two), expected);
}

#[test]
fn the_paired_t_test_agrees_with_scipy() {
    let rows: [(&[f64], &[f64], f64); 4] = [
        (&[0.84, 0.83, 0.85], &[0.82, 0.83, 0.81], 0.22540333075851635),
        (&[0.1, 0.2], &[0.3, 0.35], 0.09033447060173315),
        (&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.5, 1.9, 3.3, 4.1, 5.2], 0.11611652351681574),
        (&[0.5, 0.6, 0.7, 0.8], &[0.1, 0.2, 0.3, 0.41], 5.485516594550817e-07),
    ];
    for (x, y, expected) in rows {
        let found = paired_t_test(x, y);
        // Differences of 0.1 and its like are rounded before they are squared.
        assert!((found - expected).abs() <= 1e-9 * expected, "found {found}, expected {expected}");
    }
    assert_eq!(paired_t_test(&[2.0, 3.0], &[1.0, 2.0]), 0.0);
    assert!(paired_t_test(&[1.0], &[2.0]).is_nan() && paired_t_test(&[1.0, 2.0], &[1.0, 2.0]).is_nan());
}

#[test]
fn what_has_no_value_says_so() {
    assert!(Confusion::new(&[], &[]).accuracy().is_nan());
    assert_eq!(Confusion::new(&[], &[]).matthews(), 0.0);
    assert!(
        pearson(&[1.0, 1.0], &[1.0, 2.0]).is_nan()
            && pearson(&[], &[]).is_nan()
            && pearson(&[1.0], &[1.0]).is_nan()
    );
    assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
    assert_eq!(Bleu::default().corpus(&[""], &[vec!["a"]]).score, 0.0);
    assert_eq!(Chrf::default().corpus(&[""], &[vec!["a"]]), 0.0);
    let panics: [(&str, fn()); 2] = [
        ("Confusion::new", || assert_eq!(Confusion::new(&[1], &[]).classes(), 2)),
        ("pearson", || assert_eq!(pearson(&[1.0], &[]), 0.0)),
    ];
    for (name, act) in panics {
        let panic = std::panic::catch_unwind(act).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.starts_with(name), "{text}");
    }
}
