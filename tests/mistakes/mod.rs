//! Every mistake in the files of tasks is reported with file, line and column.

use std::path::Path;

use engrad::tasks::{Generation, Understanding};

use super::directory;

/// Reading a directory of this one file fails, at the place and in the words expected.
fn refused(file: &str, bytes: &[u8], expected: &str, read: impl Fn(&Path) -> engrad::Result<()>) {
    let directory = directory(&[(file, bytes)]);
    let found = read(directory.path()).unwrap_err().to_string();
    let expected = format!("{}, {expected}", directory.path().join(file).display());
    assert!(found.contains(&expected), "{found}\nexpected {expected}");
}

#[test]
fn every_mistake_in_a_table_is_reported_with_file_line_and_column() {
    use Understanding::*;
    let mistakes: [(Understanding, &str, &[u8], &str); 16] = [
        (Sst2, "train.tsv", b"", "line 1, column 1: the file is empty"),
        (Sst2, "train.tsv", b"\xef\xbb\xbf", "line 1, column 1: the file is empty"),
        (Sst2, "train.tsv", b"\n", "line 2, column 1: the file ends after its header"),
        (Sst2, "train.tsv", b"label\tsentence\n", "line 2, column 1: the file ends after its header"),
        (
            Sst2,
            "train.tsv",
            b"label\twords\n0\ta\n",
            "line 1, column 1: the header names [\"label\", \"words\"], but no column sentence or content",
        ),
        (
            Sst2,
            "train.tsv",
            b"mark\tsentence\n0\ta\n",
            "line 1, column 1: the header names [\"mark\", \"sentence\"], but no column label",
        ),
        (
            Sst2,
            "train.tsv",
            b"label\tsentence\n0\ta\n1\n",
            "line 3, column 2: the line has 1 columns, expected 2",
        ),
        (
            Sst2,
            "train.tsv",
            b"label\tsentence\n0\ta\tb\n",
            "line 2, column 3: the line has 3 columns, expected 2",
        ),
        (
            Sst2,
            "train.tsv",
            b"label\tsentence\n0\ta\n\n1\tb\n",
            "line 3, column 2: the line has 1 columns, expected 2",
        ),
        (
            Sst2,
            "train.tsv",
            b"sentence\tlabel\na\tgood\n",
            "line 2, column 2 (label): found \"good\", expected the label 0 or 1",
        ),
        (Sst2, "train.tsv", b"label\tsentence\n1\t  \n", "line 2, column 2 (sentence): the text is empty"),
        (
            Sst2,
            "train.tsv",
            b"label\tsentence\n0\ta\n1\tb\xff\n",
            "line 3, column 2: byte 4 of the line (0xff) is not UTF-8",
        ),
        (
            Cola,
            "in_domain_train.tsv",
            b"gj04\t1\t\ta\ngj04\t1\n",
            "line 2, column 3: the line has 2 columns, expected 4 or more",
        ),
        (
            Cola,
            "in_domain_train.tsv",
            b"gj04\t2\t\ta\n",
            "line 1, column 2: found \"2\", expected the label 0 or 1",
        ),
        (
            Rte,
            "train.tsv",
            b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n",
            "line 2, column 4 (label): found \"maybe\", expected the label not_entailment or entailment",
        ),
        (
            Stsb,
            "sts-train.csv",
            b"a\tb\tc\td\t5.5\te\tf\n",
            "line 1, column 5: found \"5.5\", expected a score from 0 to 5",
        ),
    ];
    for (task, file, bytes, expected) in mistakes {
        refused(file, bytes, expected, |directory| task.read(directory).map(drop));
    }
}

#[test]
fn every_mistake_in_a_generation_file_is_reported_with_file_line_and_column() {
    use Generation::*;
    let mistakes: [(Generation, &str, &[u8], &str); 16] = [
        (E2e, "devset.csv", b"", "line 1, column 1: the file is empty"),
        (E2e, "devset.csv", b"mr,ref\n", "line 2, column 1: the file ends after its header"),
        (
            E2e,
            "devset.csv",
            b"mr,text\na[b],c\n",
            "line 1, column 1: the header names [\"mr\", \"text\"], but no column ref",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\n\"a[b]\",\"c\nd\n",
            "line 2, column 2: the quote that opens the field does not close",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\n\"a[b],\"c\"\n",
            "line 2, column 1: 'c' follows the quote that closes the field",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\na[b],c \"d\"\n",
            "line 2, column 2: a quote in a field that does not begin with one",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\n\"a[b]\",\"c\nd\"\na[b]\n",
            "line 4, column 2: the line has 1 columns, expected 2",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\na(b),c\n",
            "line 2, column 1 (mr): found \"a(b)\", expected name[value]",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\na[b],\xc3\n",
            "line 2, column 2: byte 6 of the line (0xc3) is not UTF-8",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\n\"a[b], c[d]\",\"x, \xff\"\n",
            "line 2, column 2: byte 18 of the line (0xff) is not UTF-8",
        ),
        (
            E2e,
            "devset.csv",
            b"mr,ref\n\"a[b]\",\"c,\nd,\xff\"\n",
            "line 3, column 2: byte 3 of the line (0xff) is not UTF-8",
        ),
        (
            Webnlg,
            "train.json",
            b"{\"entries\":\n[, \xff",
            "line 2, column 4: byte 4 of the line (0xff) is not UTF-8",
        ),
        (
            Webnlg,
            "train.json",
            b"{\"entries\": [\n{\"1\": {\"modifiedtripleset\": []}}]}",
            "line 2, column 31: missing field `lexicalisations`",
        ),
        (Webnlg, "train.json", b"", "line 1, column 1: EOF while parsing"),
        (Dart, "dart-v1.1.1-full-dev.json", b"[]", "line 1, column 1: no record with a text"),
        (
            Dart,
            "dart-v1.1.1-full-dev.json",
            b"[{\"tripleset\": [[\"a\",\n\"b\"]], \"annotations\": []}]",
            "line 2, column 4: invalid length 2",
        ),
    ];
    for (task, file, bytes, expected) in mistakes {
        refused(file, bytes, expected, |directory| task.read(directory).map(drop));
    }
}
