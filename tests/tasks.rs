//! Published tasks are read as they are published, become prompts and answers, and are judged as published.
//! Read next: `mistakes/mod.rs`, what malformed files are told.

mod mistakes;

use std::fs;
use std::path::Path;

use engrad::Result;
use engrad::tasks::{Example, Examples, Generation, Mersenne, Record, Understanding, nearest};

/// A directory with these files.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(directory.path().join(name), bytes).unwrap());
    directory
}

fn example(first: &str, second: Option<&str>, label: f64) -> Example {
    Example { first: first.into(), second: second.map(String::from), label }
}

fn read(task: Understanding, files: &[(&str, &str)]) -> Result<Examples> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    task.read(directory(&files).path())
}

#[test]
fn every_published_layout_is_read() {
    use Understanding::*;
    // Task, files to train and to measure on, header, and two lines with their labels.
    type Lines = [(&'static str, f64); 2];
    let rows: [(Understanding, [&str; 2], &str, Lines); 9] = [
        (
            Cola,
            ["in_domain_train.tsv", "in_domain_dev.tsv"],
            "",
            [("gj04\t1\t\tFIRST\n", 1.0), ("ks08\t0\t*\tFIRST\n", 0.0)],
        ),
        (Cola, ["train.tsv", "dev.tsv"], "", [("gj04\t1\t\tFIRST\r\n", 1.0), ("ks08\t0\t*\tFIRST\r\n", 0.0)]),
        (
            Rte,
            ["train.tsv", "dev.tsv"],
            "index\tsentence1\tsentence2\tlabel\n",
            [("0\tFIRST\tSECOND\tentailment\n", 1.0), ("1\tFIRST\tSECOND\tnot_entailment\n", 0.0)],
        ),
        (
            Stsb,
            ["sts-train.csv", "sts-dev.csv"],
            "",
            [
                ("news\tf\t2012\t1\t3.750\tFIRST\tSECOND\n", 3.75),
                ("news\tf\t2012\t1\t0\tFIRST\tSECOND\thttp\tx", 0.0),
            ],
        ),
        (
            Stsb,
            ["train.tsv", "dev.tsv"],
            "index\tgenre\tsentence1\tsentence2\tscore\n",
            [("0\tx\tFIRST\tSECOND\t5.0\n", 5.0), ("0\tx\tFIRST\tSECOND\t1\n", 1.0)],
        ),
        (
            Mnli,
            ["train.tsv", "dev_matched.tsv"],
            "index\tsentence1\tsentence2\tgold_label\n",
            [("0\tFIRST\tSECOND\tcontradiction\n", 2.0), ("0\tFIRST\tSECOND\tneutral\n", 1.0)],
        ),
        (
            Qnli,
            ["train.tsv", "dev.tsv"],
            "index\tquestion\tsentence\tlabel\n",
            [("0\tFIRST\tSECOND\tentailment\n", 1.0), ("1\tFIRST\tSECOND\tnot_entailment\n", 0.0)],
        ),
        (
            Qqp,
            ["train.tsv", "dev.tsv"],
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
            [("0\t1\t2\tFIRST\tSECOND\t1\n", 1.0), ("0\t1\t2\tFIRST\tSECOND\t0\n", 0.0)],
        ),
        (
            Mrpc,
            ["train.tsv", "dev.tsv"],
            "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
            [("1\t1\t2\tFIRST\tSECOND\n", 1.0), ("0\t1\t2\tFIRST\tSECOND\n", 0.0)],
        ),
    ];
    let [first, second] = ["one, two", "\"a\" b"];
    for (task, files, header, lines) in rows {
        let text = lines.map(|(line, _)| line.replace("FIRST", first).replace("SECOND", second)).concat();
        let text = header.to_string() + &text;
        let expected =
            lines.map(|(line, label)| example(first, line.contains("SECOND").then_some(second), label));
        let read =
            read(task, &files.map(|file| (file, &*text))).unwrap_or_else(|error| panic!("{task}: {error}"));
        assert_eq!((&read.train[..], &read.dev[..]), (&expected[..], &expected[..]), "{task} {files:?}");
    }
}

#[test]
fn without_a_file_to_measure_on_the_last_rows_are_held_out() {
    for (task, file, header, held_out) in [
        (Understanding::Rte, "train.tsv", "index\tsentence1\tsentence2\tlabel\n", 250),
        (Understanding::Mrpc, "msr_paraphrase_train.txt", "label\tQuality\t#1 String\t#2 String\n", 408),
    ] {
        let row = |at: usize| match task {
            Understanding::Rte => format!("{at}\ttext {at}\tother\tentailment\n"),
            _ => format!("x\t1\ttext {at}\tother\n"),
        };
        let text = |count| header.to_string() + &(0..count).map(row).collect::<String>();
        let rows = read(task, &[(file, &text(held_out + 3))]).unwrap();
        assert_eq!((rows.train.len(), rows.dev.len()), (3, held_out));
        assert_eq!((&*rows.train[2].first, &*rows.dev[0].first), ("text 2", "text 3"));
        let error = read(task, &[(file, &text(held_out))]).unwrap_err().to_string();
        assert!(error.contains(&format!("expected more than the {held_out}")), "{error}");
    }
}

#[test]
fn rows_without_all_their_columns_are_left_out_of_qqp_alone() {
    let header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
    let text = header.to_string() + "0\t1\t2\tA\tB\t1\n1\t3\t4\n2\t5\t6\tC\t\t0\n3\t7\t8\tD\tE\t0\n";
    let rows = read(Understanding::Qqp, &[("train.tsv", &text), ("dev.tsv", &text)]).unwrap();
    assert_eq!((rows.train.len(), rows.dev.len(), rows.left_out), (2, 2, 4));
    assert_eq!(rows.train[1], example("D", Some("E"), 0.0));
    let none = header.to_string() + "1\t3\t4\n";
    let error =
        read(Understanding::Qqp, &[("train.tsv", &none), ("dev.tsv", &none)]).unwrap_err().to_string();
    assert!(error.contains("no row has all of its 6 columns"), "{error}");
    let rte = "index\tsentence1\tsentence2\tlabel\n0\tA\n";
    let error = read(Understanding::Rte, &[("train.tsv", rte), ("dev.tsv", rte)]).unwrap_err().to_string();
    assert!(error.contains("line 2, column 3: the line has 2 columns, expected 4"), "{error}");
}

#[test]
fn the_rows_of_mrpc_are_those_of_glue_where_both_are_there() {
    let authors = "Quality\t#1 String\t#2 String\n".to_string() + &"1\tA\tB\n".repeat(500);
    let glue = "Quality\t#1 String\t#2 String\n0\tC\tD\n";
    let files = [("msr_paraphrase_train.txt", &*authors), ("train.tsv", glue), ("dev.tsv", glue)];
    let rows = read(Understanding::Mrpc, &files).unwrap();
    assert_eq!(
        (rows.train, rows.dev),
        (vec![example("C", Some("D"), 0.0)], vec![example("C", Some("D"), 0.0)])
    );
}

#[test]
fn sst2_is_shuffled_as_python_shuffles_it() {
    let rows: String = (0..10).map(|at| format!("{}\ttext {at}\n", at % 2)).collect();
    let file = format!("label\tcontent\n{rows}");
    let read = read(Understanding::Sst2, &[("train.tsv", &file), ("dev.tsv", &file)]).unwrap();
    let order: Vec<String> = read.train.iter().map(|example| example.first.replace("text ", "")).collect();
    assert_eq!(order.join(" "), "7 8 1 5 3 4 2 0 9 6");
    assert_eq!(read.dev[3], example("text 3", None, 1.0));

    for (seed, expected) in [(0, [7, 8, 1, 5, 3, 4, 2, 0, 9, 6]), (7, [8, 3, 1, 4, 7, 0, 9, 6, 2, 5])] {
        let mut items: Vec<usize> = (0..10).collect();
        Mersenne::seeded(seed).shuffle(&mut items);
        assert_eq!(items, expected, "seed {seed}");
    }
    let mut items: Vec<usize> = (0..1500).collect();
    Mersenne::seeded(0).shuffle(&mut items);
    assert_eq!(items[..6], [835, 1326, 876, 1348, 601, 131], "beyond the first 624 draws");
}

#[test]
fn records_become_prompts_with_all_texts_that_say_them() {
    let rows: String = (0..10)
        .map(|at| format!("\"name[N{at}], area[city, centre]\",\"It said \"\"{at}\"\",\nso.\"\r\n"))
        .collect();
    let csv = format!("mr,ref\r\n{rows}\"name[N0], area[city, centre]\",another\r\n");
    let records = Generation::E2e.read(directory(&[("devset.csv", csv.as_bytes())]).path()).unwrap();
    let first = Record {
        prompt: "name : N0 | area : city, centre".into(),
        references: vec!["It said \"0\",\nso.".into(), "another".into()],
    };
    assert_eq!((&records.train[0], records.train.len(), records.dev.len()), (&first, 9, 1));
    assert_eq!(records.dev[0].prompt, "name : N9 | area : city, centre");

    let webnlg =
        br#"{"entries": [{"1": {"modifiedtripleset": [{"subject": "A", "property": "in", "object": "B"},
        {"subject": "B", "property": "of", "object": "C"}],
        "lexicalisations": [{"comment": "good", "lex": "A is in B."}, {"comment": "bad", "lex": "?"}]}},
        {"2": {"modifiedtripleset": [], "lexicalisations": []}}]}"#;
    let records = Generation::Webnlg
        .read(directory(&[("train.json", webnlg), ("dev_part.json", webnlg)]).path())
        .unwrap();
    let expected = Record { prompt: "A : in : B | B : of : C".into(), references: vec!["A is in B.".into()] };
    assert_eq!((records.train, records.dev), (vec![expected.clone()], vec![expected]));

    // Records of one entry come in the order of their names, in every run.
    let entry = |name: char| {
        let text = format!(r#"{{"comment": "good", "lex": "{name}"}}"#);
        format!(r#""{name}": {{"modifiedtripleset": [], "lexicalisations": [{text}]}}"#)
    };
    let entries = "hgfedcba".chars().map(entry).collect::<Vec<_>>().join(", ");
    let many = format!(r#"{{"entries": [{{{entries}}}]}}"#);
    let files = [("train.json", many.as_bytes()), ("dev.json", many.as_bytes())];
    let records = Generation::Webnlg.read(directory(&files).path()).unwrap();
    let texts: Vec<&str> = records.train.iter().map(|record| &*record.references[0]).collect();
    assert_eq!(texts.concat(), "abcdefgh");

    let dart = br#"[{"tripleset": [["A", "IN", "B"]], "annotations": [{"source": "x", "text": "one"}]},
        {"tripleset": [["A", "IN", "B"]], "annotations": [{"source": "y", "text": "two"}]}]"#;
    let files: [(&str, &[u8]); 2] =
        [("dart-v1.1.1-full-train.json", dart), ("dart-v1.1.1-full-dev.json", dart)];
    let records = Generation::Dart.read(directory(&files).path()).unwrap();
    let expected = Record { prompt: "A : IN : B".into(), references: vec!["one".into(), "two".into()] };
    assert_eq!(records.dev, [expected]);
}

#[test]
fn what_is_not_there_or_not_known_is_named() {
    let empty = directory(&[]);
    let path = empty.path().display().to_string();
    let mrpc = Understanding::Mrpc.read(empty.path()).unwrap_err().to_string();
    assert!(mrpc.contains(&path) && mrpc.contains("train.tsv or msr_paraphrase_train.txt"), "{mrpc}");
    assert!(Generation::E2e.read(empty.path()).unwrap_err().to_string().contains("no file of e2e"));
    assert!("sst-2".parse::<Understanding>().unwrap_err().to_string().contains("did you mean sst2?"));
    assert!("web-nlg".parse::<Generation>().unwrap_err().to_string().contains("did you mean webnlg?"));
    assert_eq!(nearest("lerning_rate", ["batch", "learning_rate", "rank"]), Some("learning_rate"));
    for task in Understanding::ALL {
        assert_eq!(task.name().parse::<Understanding>().unwrap(), task);
    }
}

#[test]
fn each_task_is_judged_as_glue_judges_it() {
    let measured = |task: Understanding| task.measure(&[1.0, 0.0, 1.0, 1.0], &[1.0, 1.0, 1.0, 0.0]);
    assert_eq!(measured(Understanding::Sst2), [0.5]);
    assert_eq!(measured(Understanding::Mrpc), [0.5, 2.0 / 3.0]);
    assert!((measured(Understanding::Cola)[0] + 1.0 / 3.0).abs() < 1e-15);
    assert!((Understanding::Stsb.measure(&[0.0, 2.0, 5.0], &[1.0, 2.0, 3.0])[1] - 1.0).abs() < 1e-15);
    for task in Understanding::ALL {
        assert_eq!(task.measure(&[1.0, 0.0], &[1.0, 0.0]).len(), task.measures().len(), "{task}");
    }
}

/// The numbers of rows that the notes beside the published files give, where the files are there. Of DART's
/// 2,768 entries some tell the same facts in other words.
#[test]
fn the_published_files_have_the_rows_that_their_notes_count() {
    let data = Path::new("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: no published files in {}", data.display());
        return;
    }
    for (task, folder, train, dev) in [
        (Understanding::Cola, "cola", 8551, 527),
        (Understanding::Sst2, "sst2", 67_349, 872),
        (Understanding::Mrpc, "mrpc", 3668, 408),
        (Understanding::Rte, "rte", 2240, 250),
        (Understanding::Stsb, "stsb", 5749, 1500),
    ] {
        let rows = task.read(data.join(folder)).unwrap();
        assert_eq!((rows.train.len(), rows.dev.len()), (train, dev), "{task}");
    }
    for (task, folder, records) in [
        (Generation::E2e, "e2e", 547),
        (Generation::Webnlg, "webnlg2017", 611),
        (Generation::Dart, "dart", 2721),
    ] {
        let read = task.read(data.join(folder)).unwrap();
        assert_eq!(read.train.len() + read.dev.len(), records, "{task}");
    }
}
