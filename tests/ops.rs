//! What every op must obey, derived from the rows of `common/table.rs`: the same forward and gradient
//! on every device, a true gradient, whatever the sizes and however the inputs lie in memory.

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::row::{Case, Outcome};
use common::table::table;
use common::{compare, largest, on_every_fast_device, poison, test_on};
use engrad::{Device, Gradcheck};

/// Runs `check` on every case that `chosen` takes, and panics with all that failed.
#[track_caller]
fn on_every_case(chosen: impl Fn(&Case) -> bool, check: impl Fn(&Case) -> Result<(), String>) {
    let table = table();
    let (mut count, mut failed) = (0, Vec::new());
    for case in table.iter().flat_map(|row| row.cases()).filter(chosen) {
        count += 1;
        let result = catch_unwind(AssertUnwindSafe(|| check(&case))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("panic: {}", text.unwrap_or_else(|| "without a text".into())))
        });
        if let Err(what) = result {
            failed.push(format!("{}: {what}", case.name()));
        }
    }
    assert!(count > 100, "the table has {count} cases");
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
}

fn agree(found: &Outcome, expected: &Outcome, tolerance: f64) -> Result<(), String> {
    if found.sizes != expected.sizes {
        return Err(format!("sizes {:?}, expected {:?}", found.sizes, expected.sizes));
    }
    let scale = largest(&expected.value);
    compare(&found.value, &expected.value, tolerance * scale).map_err(|what| format!("result: {what}"))?;
    // A gradient may be nothing but what is left of terms as large as the result or its neighbours.
    let scale = expected.gradients.iter().flatten().fold(scale, |scale, g| scale.max(largest(g)));
    for (at, gradients) in found.gradients.iter().zip(&expected.gradients).enumerate() {
        match gradients {
            (None, None) => {}
            (Some(found), Some(gradient)) => {
                // Where the result has more elements, each of the gradient sums that many terms at least.
                // They may cancel, and their rounding, which does not, grows with the root of their number.
                let terms = expected.value.len() as f64 / gradient.len().max(1) as f64;
                let scale = scale.max(largest(&expected.value) * terms.sqrt());
                compare(found, gradient, tolerance * scale)
                    .map_err(|what| format!("gradient of input {at}: {what}"))?;
            }
            _ => return Err(format!("input {at} has a gradient on one device only")),
        }
    }
    Ok(())
}

on_every_fast_device! {
    fn every_op_and_its_gradient_agree_with_the_reference(device) {
        poison(device);
        on_every_case(
            |_| true,
            |case| agree(&case.run(device), &case.run(&Device::Reference), case.row.tolerance),
        );
    }
}

#[test]
fn every_gradient_is_what_a_small_step_measures() {
    let settings = Gradcheck { directions: 2, ..Gradcheck::default() };
    on_every_case(
        |case| !case.is_large() && !case.row.steps,
        |case| {
            // The mean of nothing is not a number, and there is nothing to step along.
            if case.sizes.iter().all(|sizes| sizes.contains(&0)) {
                return Ok(());
            }
            let stored = case.stored(&Device::Reference);
            let checked = settings.check(|inputs| case.call(inputs), &stored);
            checked.map(|_| ()).map_err(|error| error.to_string())
        },
    );
}

#[test]
fn ops_that_only_step_have_no_history() {
    on_every_case(
        |case| case.row.steps && !case.is_large(),
        |case| {
            let leaves: Vec<_> = case.stored(&Device::Cpu).iter().map(|x| x.tracked()).collect();
            match case.call(&leaves).is_tracked() {
                true => Err("is tracked".into()),
                false => Ok(()),
            }
        },
    );
}

/// The names of the public functions in `src/ops`.
fn public_ops() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the ops are in src/ops") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).expect("a source file");
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn ")) {
            names.insert(line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn every_public_op_has_a_row() {
    let table = table();
    let named: BTreeSet<String> = table.iter().map(|row| row.op().to_string()).collect();
    let missing: Vec<_> = public_ops().difference(&named).cloned().collect();
    assert!(missing.is_empty(), "without a row in common/table.rs: {missing:?}");
}

#[test]
fn every_row_has_a_name_of_its_own_and_a_case() {
    let mut names = BTreeSet::new();
    for row in &table() {
        assert!(names.insert(row.name), "two rows are called {:?}", row.name);
        assert!(!row.cases().is_empty(), "{:?} has no case", row.name);
    }
}
