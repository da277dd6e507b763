//! Elementwise programs: a formula is written once, and its loop, its shader and its slope follow.
//!
//! `Program::build(|[x]| x * x.sigmoid())` runs the closure on symbols (`formula.rs`) and records
//! straight-line code. Equal subterms are shared. [`Program::pull`] differentiates by symbol (`slope.rs`)
//! and gives another program, so no elementwise op has a gradient rule of its own.
//! Read next: `device/kernel.rs` (who runs programs), `ops/elementwise.rs` (who writes them).

mod formula;
mod slope;

use formula::Arena;
pub use formula::{Expr, Operand};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// `-x`
    Neg,
    /// `e^x`
    Exp,
    /// `e^x - 1`, exact near 0.
    ExpM1,
    /// Natural logarithm.
    Ln,
    /// `ln(1 + x)`, exact near 0.
    Ln1p,
    /// Square root.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// `1/(1 + e^-x)`
    Sigmoid,
    /// The error function.
    Erf,
    /// `x·Φ(x)`, where `Φ(x) = 0.5·(1 + erf(x/√2))` is the normal distribution up to `x`.
    Gelu,
    /// `Φ(x) + x·Φ'(x)`, the slope of `Gelu`.
    GeluSlope,
    /// Sine of an angle in radians.
    Sin,
    /// Cosine of an angle in radians.
    Cos,
    /// Absolute value.
    Abs,
    /// -1, 0 or 1.
    Sign,
    /// The whole number below.
    Floor,
    /// The whole number above.
    Ceil,
    /// To the nearest whole number, halves to the even one.
    Round,
}

/// A function of two numbers; comparisons give 1, or else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// The larger, or NaN if either is NaN.
    Max,
    /// The smaller, or NaN if either is NaN.
    Min,
    /// `a` to the power of `b`.
    Pow,
    /// 1 where `a < b`.
    Less,
    /// 1 where `a <= b`.
    LessEqual,
    /// 1 where both are equal.
    Equal,
}

/// One line of a program; operands are the numbers of earlier lines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instruction {
    /// The element of an input.
    Input(usize),
    /// A constant. Its value is data, not code: shaders read it from the parameters.
    Number(f64),
    /// A uniform random number in `[0, 1)` of (seed, position of the element).
    Random(u64),
    /// `f(a)`
    Unary(Unary, usize),
    /// `f(a, b)`
    Binary(Binary, usize, usize),
    /// The second operand where the first is not 0, else the third.
    Select(usize, usize, usize),
}

impl Instruction {
    /// The lines it reads.
    pub fn operands(&self) -> impl Iterator<Item = usize> + use<> {
        let list = match *self {
            Instruction::Input(_) | Instruction::Number(_) | Instruction::Random(_) => [None; 3],
            Instruction::Unary(_, a) => [Some(a), None, None],
            Instruction::Binary(_, a, b) => [Some(a), Some(b), None],
            Instruction::Select(a, b, c) => [Some(a), Some(b), Some(c)],
        };
        list.into_iter().flatten()
    }
}

/// Straight-line code with shared subterms and one or more outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    instructions: Vec<Instruction>,
    outputs: Vec<usize>,
    inputs: usize,
}

impl Program {
    /// The program of a formula over `N` inputs with one output.
    pub fn build<const N: usize>(formula: impl for<'p> Fn([Expr<'p>; N]) -> Expr<'p>) -> Program {
        Program::build_many(|inputs| [formula(inputs)])
    }

    /// The program of a formula over `N` inputs with `M` outputs.
    pub fn build_many<const N: usize, const M: usize>(
        formula: impl for<'p> Fn([Expr<'p>; N]) -> [Expr<'p>; M],
    ) -> Program {
        let arena = Arena::default();
        let outputs = indices(formula(symbols(&arena)));
        Program::pruned(arena, outputs, N)
    }

    /// The lines, in an order in which operands come first.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The lines whose values are the results.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }

    /// How many inputs it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether the program only passes its one input on.
    pub fn is_identity(&self) -> bool {
        matches!(self.instructions[..], [Instruction::Input(_)])
    }

    /// Keeps only the lines that the outputs need.
    fn pruned(arena: Arena, outputs: Vec<usize>, inputs: usize) -> Program {
        let lines = arena.into_lines();
        let mut needed = vec![false; lines.len()];
        for &output in &outputs {
            needed[output] = true;
        }
        for line in (0..lines.len()).rev() {
            if needed[line] {
                lines[line].operands().for_each(|operand| needed[operand] = true);
            }
        }
        let mut moved = vec![0; lines.len()];
        let mut instructions = Vec::new();
        for (line, instruction) in lines.iter().enumerate().filter(|&(line, _)| needed[line]) {
            moved[line] = instructions.len();
            instructions.push(rewired(*instruction, |operand| moved[operand]));
        }
        Program { instructions, outputs: outputs.iter().map(|&line| moved[line]).collect(), inputs }
    }
}

/// The inputs of a formula.
fn symbols<const N: usize>(arena: &Arena) -> [Expr<'_>; N] {
    std::array::from_fn(|i| arena.push(Instruction::Input(i)))
}

/// Where the results of a formula stand.
fn indices<const M: usize>(outputs: [Expr<'_>; M]) -> Vec<usize> {
    outputs.iter().map(|output| output.index).collect()
}

/// The same line, reading other lines.
fn rewired(instruction: Instruction, to: impl Fn(usize) -> usize) -> Instruction {
    match instruction {
        Instruction::Unary(f, a) => Instruction::Unary(f, to(a)),
        Instruction::Binary(f, a, b) => Instruction::Binary(f, to(a), to(b)),
        Instruction::Select(a, b, c) => Instruction::Select(to(a), to(b), to(c)),
        leaf => leaf,
    }
}
