//! The slope of a program: each line's derivative by rule, the lines joined by the chain rule.
//!
//! Slopes are terms themselves, so the gradient of a formula is one more program, and what is zero
//! vanishes before anything is computed.

use std::f64::consts::PI;

use super::formula::{Arena, Expr};
use super::{Binary, Instruction, Program, Unary, rewired};

impl Program {
    /// The chain rule for one input: a program that computes `g · d output / d input`.
    ///
    /// The second part lists the inputs it reads; its own inputs are those, then `g`.
    /// `None` when the output does not depend on the input.
    ///
    /// **Panics** when the program has several outputs.
    pub fn pull(&self, input: usize) -> Option<(Program, Vec<usize>)> {
        assert_eq!(self.outputs.len(), 1, "only a program with one output is differentiated");
        let arena = Arena::default();
        let g = arena.push(Instruction::Input(self.inputs));
        let mut lines: Vec<(Expr, Option<Expr>)> = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            let value = arena.push(rewired(*instruction, |line| lines[line].0.index));
            let slope = slope(&arena, *instruction, value, &lines, input);
            lines.push((value, slope));
        }
        let output = (lines[self.outputs[0]].1? * g).index;
        let mut program = Program::pruned(arena, vec![output], self.inputs + 1);
        let used: Vec<usize> =
            (0..self.inputs).filter(|&i| program.instructions.contains(&Instruction::Input(i))).collect();
        program.renumber_inputs(&used, self.inputs);
        Some((program, used))
    }

    /// Gives the `used` inputs the first numbers, and `last` the number behind them.
    fn renumber_inputs(&mut self, used: &[usize], last: usize) {
        for instruction in &mut self.instructions {
            if let Instruction::Input(i) = instruction {
                *i = if *i == last {
                    used.len()
                } else {
                    used.binary_search(i).expect("`used` lists every input there is")
                };
            }
        }
        self.inputs = used.len() + 1;
    }
}

/// The derivative of one line with respect to `input`, given values and slopes of the lines before;
/// `None` stands for zero, so that whole branches vanish.
fn slope<'p>(
    arena: &'p Arena,
    instruction: Instruction,
    value: Expr<'p>,
    lines: &[(Expr<'p>, Option<Expr<'p>>)],
    input: usize,
) -> Option<Expr<'p>> {
    match instruction {
        Instruction::Input(i) => (i == input).then(|| arena.push(Instruction::Number(1.0))),
        Instruction::Number(_) | Instruction::Random(_) => None,
        Instruction::Unary(f, a) => {
            let (x, dx) = lines[a];
            unary_slope(f, x, value).zip(dx).map(|(slope, dx)| slope * dx)
        }
        Instruction::Binary(f, a, b) => {
            let ((a, da), (b, db)) = (lines[a], lines[b]);
            let [slope_a, slope_b] = binary_slopes(f, a, b, value);
            let part =
                |slope: Option<Expr<'p>>, d: Option<Expr<'p>>| slope.zip(d).map(|(slope, d)| slope * d);
            match (part(slope_a, da), part(slope_b, db)) {
                (Some(left), Some(right)) => Some(left + right),
                (left, right) => left.or(right),
            }
        }
        Instruction::Select(condition, a, b) => match (lines[a].1, lines[b].1) {
            (None, None) => None,
            (da, db) => {
                let zero = || arena.push(Instruction::Number(0.0));
                Some(lines[condition].0.select(da.unwrap_or_else(zero), db.unwrap_or_else(zero)))
            }
        },
    }
}

fn unary_slope<'p>(f: Unary, x: Expr<'p>, y: Expr<'p>) -> Option<Expr<'p>> {
    Some(match f {
        Unary::Neg => x.number(-1.0),
        Unary::Exp => y,
        Unary::ExpM1 => y + 1.0,
        Unary::Ln => 1.0 / x,
        Unary::Ln1p => 1.0 / (x + 1.0),
        Unary::Sqrt => 0.5 / y,
        Unary::Tanh => 1.0 - y * y,
        Unary::Sigmoid => y * (1.0 - y),
        Unary::Erf => (2.0 / PI.sqrt()) * (-(x * x)).exp(),
        Unary::Gelu => x.gelu_slope(),
        // Φ'(x) = e^(-x²/2)/√(2π), whose slope is -x·Φ'(x).
        Unary::GeluSlope => (2.0 - x * x) * (x * x * -0.5).exp() * (1.0 / (2.0 * PI).sqrt()),
        Unary::Sin => x.cos(),
        Unary::Cos => -x.sin(),
        Unary::Abs => x.sign(),
        Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round => return None,
    })
}

/// The slopes of `f(a, b)` towards `a` and towards `b`. At a tie, max and min share evenly.
fn binary_slopes<'p>(f: Binary, a: Expr<'p>, b: Expr<'p>, y: Expr<'p>) -> [Option<Expr<'p>>; 2] {
    let one = a.number(1.0);
    let wins = |strictly: Expr<'p>| Some(a.equal(b).select(a.number(0.5), strictly));
    match f {
        Binary::Add => [Some(one), Some(one)],
        Binary::Sub => [Some(one), Some(-one)],
        Binary::Mul => [Some(b), Some(a)],
        Binary::Div => [Some(1.0 / b), Some(-(y / b))],
        Binary::Max => [wins(b.less(a)), wins(a.less(b))],
        Binary::Min => [wins(a.less(b)), wins(b.less(a))],
        // At the corners the limit is taken: x^0 is flat, and 0^b does not move with b from 0 on.
        Binary::Pow => [
            Some(b.equal(0.0).select(0.0, b * a.pow(b - 1.0))),
            Some((a.equal(0.0) * a.number(0.0).less_equal(b)).select(0.0, y * a.ln())),
        ],
        Binary::Less | Binary::LessEqual | Binary::Equal => [None, None],
    }
}
