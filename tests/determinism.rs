//! The CPU gives the same bits whatever the number of threads, and never shows memory that no kernel
//! has written. Every row of `common/table.rs` is held to it, forward and backward.

mod common;

use common::row::{Case, Outcome, Row};
use common::table::table;
use engrad::Device;
use engrad::device::cpu::poison_new_buffers;

/// The rows in every arrangement of their cases.
fn each_case(table: &[Row]) -> impl Iterator<Item = Case<'_>> {
    table.iter().flat_map(Row::cases)
}

fn run_with(threads: usize, case: &Case) -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a few threads");
    pool.install(|| case.run(&Device::Cpu))
}

/// Every number as its bits, so that NaN equals NaN and 0 differs from -0.
fn bits(outcome: &Outcome) -> Vec<u64> {
    let gradients = outcome.gradients.iter().flatten().flatten();
    outcome.value.iter().chain(gradients).map(|x| x.to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let table = table();
    let mut differing = Vec::new();
    for case in each_case(&table).filter(Case::is_large) {
        let one = bits(&run_with(1, &case));
        if [2, 4].iter().any(|&threads| bits(&run_with(threads, &case)) != one) {
            differing.push(case.name());
        }
    }
    assert!(differing.is_empty(), "other bits with other threads:\n{}", differing.join("\n"));
}

#[test]
fn a_second_run_gives_the_same_bits() {
    let table = table();
    for case in each_case(&table) {
        assert!(bits(&case.run(&Device::Cpu)) == bits(&case.run(&Device::Cpu)), "{}", case.name());
    }
}

#[test]
fn no_op_shows_memory_that_no_kernel_has_written() {
    poison_new_buffers(true);
    let table = table();
    let mut poisoned = Vec::new();
    for case in each_case(&table) {
        let count = |outcome: &Outcome| {
            let values = outcome.value.iter().chain(outcome.gradients.iter().flatten().flatten());
            values.filter(|x| x.is_nan()).count()
        };
        // A mean of nothing is NaN by definition, and so on the reference device.
        if count(&case.run(&Device::Cpu)) > 0 && count(&case.run(&Device::Reference)) == 0 {
            poisoned.push(case.name());
        }
    }
    poison_new_buffers(false);
    assert!(poisoned.is_empty(), "NaN that was never computed:\n{}", poisoned.join("\n"));
}
