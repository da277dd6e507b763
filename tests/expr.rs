//! Elementwise programs: what is recorded, what is shared and pruned, and that slopes are true.

mod common;

use engrad::expr::{Expr, Instruction, Program};
use engrad::{Device, Gradcheck, Rng, Tensor, elementwise};
use proptest::prelude::*;

/// How many lines apply a function.
fn work(program: &Program) -> usize {
    let applies = |line: &&Instruction| {
        matches!(line, Instruction::Unary(..) | Instruction::Binary(..) | Instruction::Select(..))
    };
    program.instructions().iter().filter(applies).count()
}

#[test]
fn equal_subterms_are_computed_once() {
    let program = Program::build(|[x]| x.exp() * x.exp() + x.exp());
    assert_eq!(work(&program), 3, "{program:?}");
    let program = Program::build(|[x, y]| (x + y).tanh() - (x + y).tanh() * (x + y));
    assert_eq!(work(&program), 4, "{program:?}");
}

#[test]
fn equal_numbers_share_a_line() {
    let program = Program::build(|[x]| (x + 2.0) * (x - 2.0) / 2.0);
    let numbers = program.instructions().iter().filter(|line| matches!(line, Instruction::Number(_)));
    assert_eq!(numbers.count(), 1);
}

#[test]
fn zeros_of_either_sign_are_different_numbers() {
    let x = Tensor::new(&[-1.0, 1.0], [2], &Device::Reference);
    let signed = elementwise("signed", [&x], |[x]| x.less(0.0).select(-0.0, 0.0));
    assert_eq!(signed.reciprocal().to_vec(), [f32::NEG_INFINITY, f32::INFINITY]);
}

#[test]
fn lines_that_no_output_needs_are_left_out() {
    let program = Program::build(|[x, y]| {
        let _unused = (x * y).exp().ln();
        x + 1.0
    });
    assert_eq!(work(&program), 1, "{program:?}");
    assert_eq!(program.inputs(), 2, "the call keeps its two inputs");
}

#[test]
fn operands_stand_before_what_uses_them() {
    let program = Program::build_many(|[x, y]| [(x * y).max(x).select(y.sin(), x), x / (y + 3.0)]);
    for (line, instruction) in program.instructions().iter().enumerate() {
        let operands = match *instruction {
            Instruction::Unary(_, a) => vec![a],
            Instruction::Binary(_, a, b) => vec![a, b],
            Instruction::Select(a, b, c) => vec![a, b, c],
            _ => vec![],
        };
        assert!(operands.iter().all(|&operand| operand < line));
    }
    assert_eq!(program.outputs().len(), 2);
}

#[test]
fn what_changes_nothing_is_not_recorded() {
    let same: [Formula; 7] =
        [|x| x + 0.0, |x| 0.0 + x, |x| x - 0.0, |x| x * 1.0, |x| 1.0 * x, |x| x / 1.0, |x| x.pow(1.0)];
    for formula in same {
        assert!(Program::build(|[x]| formula(x)).is_identity());
    }
    assert_eq!(work(&Program::build(|[x]| -1.0 * x)), 1);
    assert_eq!(work(&Program::build(|[x]| x.pow(3.0))), 2);
    assert!(Program::build(|[x]| x.select(x, x)).is_identity());
}

#[test]
fn an_output_that_does_not_depend_on_an_input_has_no_slope() {
    let program = Program::build(|[x, y]| x.sin() + y.floor() + y.less(x));
    assert!(program.pull(0).is_some());
    assert!(program.pull(1).is_none());
}

#[test]
fn a_slope_reads_only_what_it_needs() {
    let program = Program::build(|[x, y]| x * 3.0 + y * y);
    let (pull, used) = program.pull(0).unwrap();
    assert_eq!(used, [0usize; 0], "g alone");
    assert_eq!(pull.inputs(), 1);
    let (pull, used) = program.pull(1).unwrap();
    assert_eq!((pull.inputs(), used), (2, vec![1]));
    let (pull, used) = Program::build(|[x, y]| x - y).pull(0).unwrap();
    assert!(pull.is_identity() && used.is_empty());
}

#[test]
fn the_slope_of_a_function_reuses_its_value() {
    // exp and its slope: one exp, one product with g.
    let (pull, _) = Program::build(|[x]| x.exp()).pull(0).unwrap();
    assert_eq!(work(&pull), 2, "{pull:?}");
    // tanh, y·y, 1 - y·y, times g.
    let (pull, _) = Program::build(|[x]| x.tanh()).pull(0).unwrap();
    assert_eq!(work(&pull), 4, "{pull:?}");
}

#[test]
#[should_panic(expected = "one output")]
fn a_program_with_two_outputs_has_no_slope() {
    Program::build_many(|[x]| [x, x * x]).pull(0);
}

/// The slope of `formula` towards input `which`, at one point.
fn slope_at<const N: usize>(
    point: [f64; N],
    which: usize,
    formula: impl for<'p> Fn([Expr<'p>; N]) -> Expr<'p>,
) -> f64 {
    let inputs = point.map(|x| Tensor::from_f64(&[x], [], &Device::Reference).tracked());
    let gradients = elementwise("formula", inputs.each_ref(), formula).backward();
    gradients.of(&inputs[which]).map_or(0.0, Tensor::item)
}

#[test]
fn ties_of_max_and_min_share_evenly() {
    for which in [0, 1] {
        assert_eq!(slope_at([2.0, 2.0], which, |[a, b]| a.max(b)), 0.5);
        assert_eq!(slope_at([2.0, 2.0], which, |[a, b]| a.min(b)), 0.5);
    }
    assert_eq!(slope_at([1.0, 2.0], 0, |[a, b]| a.max(b)), 0.0);
    assert_eq!(slope_at([1.0, 2.0], 1, |[a, b]| a.max(b)), 1.0);
    assert_eq!(slope_at([1.0, 2.0], 0, |[a, b]| a.min(b)), 1.0);
    assert_eq!(slope_at([1.0, 2.0], 1, |[a, b]| a.min(b)), 0.0);
    assert_eq!(slope_at([2.0], 0, |[a]| a.max(a)), 1.0);
}

type Formula = for<'p> fn(Expr<'p>) -> Expr<'p>;

/// Every function of one number, with a range on which it is smooth.
const UNARY: [(Formula, f64, f64); 18] = [
    (|x| -x, -2.0, 2.0),
    (|x| x.exp(), -2.0, 2.0),
    (|x| x.exp_m1(), -2.0, 2.0),
    (|x| x.ln(), 0.5, 3.0),
    (|x| x.ln_1p(), -0.5, 3.0),
    (|x| x.sqrt(), 0.5, 3.0),
    (|x| x.tanh(), -2.0, 2.0),
    (|x| x.sigmoid(), -2.0, 2.0),
    (|x| x.erf(), -2.0, 2.0),
    (|x| x.gelu(), -3.0, 3.0),
    (|x| x.gelu_slope(), -3.0, 3.0),
    (|x| x.sin(), -4.0, 4.0),
    (|x| x.cos(), -4.0, 4.0),
    (|x| x.abs(), 0.1, 2.0),
    (|x| x.sign() * x, 0.1, 2.0),
    (|x| x.floor() * x, 0.1, 0.9),
    (|x| x.ceil() * x, 0.1, 0.9),
    (|x| x.round() * x, 0.6, 1.4),
];

/// Every function of two numbers that has a slope; both are drawn from 0.5 to 3.
const BINARY: [for<'p> fn(Expr<'p>, Expr<'p>) -> Expr<'p>; 9] = [
    |a, b| a + b,
    |a, b| a - b,
    |a, b| a * b,
    |a, b| a / b,
    |a, b| a.max(b),
    |a, b| a.min(b),
    |a, b| a.pow(b),
    |a, b| a.less(b).select(a * b, a - b),
    |a, b| a.less_equal(b).select(b, a * a) + a.equal(b),
];

#[test]
fn the_slope_of_every_function_is_true() {
    let mut rng = Rng::seeded(1);
    for (at, (f, low, high)) in UNARY.into_iter().enumerate() {
        let x = Tensor::uniform(low, high, [20], &mut rng, &Device::Reference);
        let checked = Gradcheck::default().check(|x| elementwise("f", [&x[0]], |[x]| f(x)), &[x]);
        checked.unwrap_or_else(|error| panic!("function {at} of one number: {error}"));
    }
    for (at, f) in BINARY.into_iter().enumerate() {
        let x = [0; 2].map(|_| Tensor::uniform(0.5, 3.0, [20], &mut rng, &Device::Reference));
        let checked = Gradcheck::default().check(|x| elementwise("f", [&x[0], &x[1]], |[a, b]| f(a, b)), &x);
        checked.unwrap_or_else(|error| panic!("function {at} of two numbers: {error}"));
    }
}

/// A term of a random formula: inputs and functions that are smooth on all numbers, and bounded, so
/// that compositions stay in a range where a small step measures well.
#[derive(Clone, Debug)]
enum Term {
    Input(usize),
    Number(f64),
    Apply(usize, Box<Term>),
    Join(usize, Box<Term>, Box<Term>),
}

impl Term {
    fn record<'p>(&self, inputs: [Expr<'p>; 3]) -> Expr<'p> {
        match self {
            Term::Input(i) => inputs[*i],
            Term::Number(value) => inputs[0].number(*value),
            Term::Apply(f, x) => {
                let x = x.record(inputs);
                match f {
                    0 => -x,
                    1 => x.tanh(),
                    2 => x.sin(),
                    3 => x.cos(),
                    4 => x.sigmoid(),
                    5 => x.erf(),
                    6 => (x * x + 1.0).ln(),
                    7 => (x * x + 1.0).sqrt(),
                    8 => (x.tanh() + 1.5).pow(x.sin()),
                    _ => x.tanh().exp(),
                }
            }
            Term::Join(f, a, b) => {
                let (a, b) = (a.record(inputs), b.record(inputs));
                match f {
                    0 => a + b,
                    1 => a - b,
                    2 => a.tanh() * b,
                    3 => a / (b * b + 1.0),
                    4 => inputs[0].less(10.0).select(a, b),
                    _ => inputs[0].less(-10.0).select(a, b),
                }
            }
        }
    }
}

fn term() -> impl Strategy<Value = Term> {
    let leaf = prop_oneof![(0..3usize).prop_map(Term::Input), (-2.0..2.0f64).prop_map(Term::Number)];
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            (0..10usize, inner.clone()).prop_map(|(f, x)| Term::Apply(f, x.into())),
            (0..6usize, inner.clone(), inner).prop_map(|(f, a, b)| Term::Join(f, a.into(), b.into())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_slope_of_any_formula_is_true(term in term(), seed in 0..1000u64) {
        let mut rng = Rng::seeded(seed);
        let inputs: Vec<Tensor> =
            (0..3).map(|_| Tensor::uniform(-2.0, 2.0, [4], &mut rng, &Device::Reference)).collect();
        let formula = |x: &[Tensor]| elementwise("term", [&x[0], &x[1], &x[2]], |inputs| term.record(inputs));
        let settings = Gradcheck { directions: 1, tolerance: 1e-6, ..Gradcheck::default() };
        prop_assert!(settings.check(formula, &inputs).is_ok(), "{:?}", settings.check(formula, &inputs));
    }

    #[test]
    fn any_formula_agrees_on_every_device(term in term(), seed in 0..1000u64) {
        let inputs = |device: &Device| {
            let mut rng = Rng::seeded(seed);
            [0; 3].map(|_| Tensor::uniform(-2.0, 2.0, [600], &mut rng, device))
        };
        let run = |device: &Device| elementwise("term", inputs(device).each_ref(), |x| term.record(x)).to_f64();
        let expected = run(&Device::Reference);
        let distance = 1e-5 * common::largest(&expected).max(1.0);
        for device in common::fast_devices() {
            let result = common::compare(&run(&device), &expected, distance);
            prop_assert!(result.is_ok(), "{device}: {result:?}");
        }
    }
}
