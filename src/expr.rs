//! Elementwise programs: a formula is written once, and its loop, its shader and its slope follow.
//!
//! `Program::build(|[x]| x * x.sigmoid())` runs the closure on symbols and records straight-line
//! code. Equal subterms are shared. [`Program::pull`] differentiates by symbol and gives another
//! program, so no elementwise op has a gradient rule of its own.
//! Read next: `device/kernel.rs` (who runs programs), `ops/elementwise.rs` (who writes them).

use std::cell::RefCell;
use std::f64::consts::PI;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Unary {
    Neg,
    Exp,
    ExpM1,
    Ln,
    Ln1p,
    Sqrt,
    Tanh,
    Sigmoid,
    Erf,
    Sin,
    Cos,
    Abs,
    /// -1, 0 or 1.
    Sign,
    Floor,
    Ceil,
    /// To the nearest whole number, halves to the even one.
    Round,
}

/// A function of two numbers; comparisons give 1 or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    /// NaN if either is NaN.
    Max,
    /// NaN if either is NaN.
    Min,
    Pow,
    Less,
    LessEqual,
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

/// The program under construction.
#[derive(Default)]
struct Arena(RefCell<Vec<Instruction>>);

/// A term of the program being built. It takes part in `+ - * /` with terms and numbers.
#[derive(Clone, Copy)]
pub struct Expr<'p> {
    arena: &'p Arena,
    index: usize,
}

impl Arena {
    /// Adds a line, or finds the equal one that is there.
    fn push(&self, instruction: Instruction) -> Expr<'_> {
        let mut lines = self.0.borrow_mut();
        let found = lines.iter().position(|line| *line == instruction);
        let index = found.unwrap_or_else(|| {
            lines.push(instruction);
            lines.len() - 1
        });
        Expr { arena: self, index }
    }
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
        let inputs = std::array::from_fn(|i| arena.push(Instruction::Input(i)));
        let outputs = formula(inputs).map(|output| output.index).to_vec();
        Program::pruned(arena, outputs, N)
    }

    /// The program of a formula without inputs: a constant, or random numbers.
    pub fn constant(value: f64) -> Program {
        Program { instructions: vec![Instruction::Number(value)], outputs: vec![0], inputs: 0 }
    }

    /// Uniform random numbers in `[0, 1)`.
    pub fn random(seed: u64) -> Program {
        Program { instructions: vec![Instruction::Random(seed)], outputs: vec![0], inputs: 0 }
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

    /// Whether the program only passes its one input on.
    pub fn is_identity(&self) -> bool {
        matches!(self.instructions[..], [Instruction::Input(_)])
    }

    /// Keeps only the lines that the outputs need.
    fn pruned(arena: Arena, outputs: Vec<usize>, inputs: usize) -> Program {
        let lines = arena.0.into_inner();
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

    /// Gives the `used` inputs the first numbers, and `last` the number behind them.
    fn renumber_inputs(&mut self, used: &[usize], last: usize) {
        for instruction in &mut self.instructions {
            if let Instruction::Input(i) = instruction {
                *i = if *i == last { used.len() } else { used.binary_search(i).expect("a used input") };
            }
        }
        self.inputs = used.len() + 1;
    }
}

fn rewired(instruction: Instruction, to: impl Fn(usize) -> usize) -> Instruction {
    match instruction {
        Instruction::Unary(f, a) => Instruction::Unary(f, to(a)),
        Instruction::Binary(f, a, b) => Instruction::Binary(f, to(a), to(b)),
        Instruction::Select(a, b, c) => Instruction::Select(to(a), to(b), to(c)),
        leaf => leaf,
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
        // At the corners the limit is taken: x^0 is flat, and 0^b does not move with b.
        Binary::Pow => [
            Some(b.equal(0.0).select(a.number(0.0), b * a.pow(b - 1.0))),
            Some(a.equal(0.0).select(a.number(0.0), y * a.ln())),
        ],
        Binary::Less | Binary::LessEqual | Binary::Equal => [None, None],
    }
}

/// What can stand beside a term: another term, or a number.
pub trait Operand<'p> {
    /// The operand as a term of the same program as `beside`.
    fn term(self, beside: Expr<'p>) -> Expr<'p>;
}

impl<'p> Operand<'p> for Expr<'p> {
    fn term(self, _: Expr<'p>) -> Expr<'p> {
        self
    }
}

impl<'p> Operand<'p> for f64 {
    fn term(self, beside: Expr<'p>) -> Expr<'p> {
        beside.number(self)
    }
}

#[allow(missing_docs)]
impl<'p> Expr<'p> {
    /// A number in the same program.
    pub fn number(self, value: f64) -> Expr<'p> {
        self.arena.push(Instruction::Number(value))
    }

    /// A uniform random number in `[0, 1)` of (seed, position of the element).
    pub fn random(self, seed: u64) -> Expr<'p> {
        self.arena.push(Instruction::Random(seed))
    }

    fn as_number(self) -> Option<f64> {
        match self.arena.0.borrow()[self.index] {
            Instruction::Number(value) => Some(value),
            _ => None,
        }
    }

    fn unary(self, f: Unary) -> Expr<'p> {
        self.arena.push(Instruction::Unary(f, self.index))
    }

    /// Records `f(self, other)`, leaving out what multiplies by one or adds zero.
    fn binary(self, f: Binary, other: impl Operand<'p>) -> Expr<'p> {
        let other = other.term(self);
        match (f, self.as_number(), other.as_number()) {
            (Binary::Mul, Some(1.0), _) | (Binary::Add, Some(0.0), _) => return other,
            (Binary::Mul | Binary::Div, _, Some(1.0)) | (Binary::Add | Binary::Sub, _, Some(0.0)) => {
                return self;
            }
            (Binary::Mul, Some(a), Some(b)) => return self.number(a * b),
            (Binary::Mul, Some(-1.0), _) => return -other,
            (Binary::Mul, _, Some(-1.0)) => return -self,
            _ => {}
        }
        self.arena.push(Instruction::Binary(f, self.index, other.index))
    }

    pub fn exp(self) -> Expr<'p> {
        self.unary(Unary::Exp)
    }
    /// `e^x - 1`, exact near 0.
    pub fn exp_m1(self) -> Expr<'p> {
        self.unary(Unary::ExpM1)
    }
    pub fn ln(self) -> Expr<'p> {
        self.unary(Unary::Ln)
    }
    /// `ln(1 + x)`, exact near 0.
    pub fn ln_1p(self) -> Expr<'p> {
        self.unary(Unary::Ln1p)
    }
    pub fn sqrt(self) -> Expr<'p> {
        self.unary(Unary::Sqrt)
    }
    pub fn tanh(self) -> Expr<'p> {
        self.unary(Unary::Tanh)
    }
    pub fn sigmoid(self) -> Expr<'p> {
        self.unary(Unary::Sigmoid)
    }
    pub fn erf(self) -> Expr<'p> {
        self.unary(Unary::Erf)
    }
    pub fn sin(self) -> Expr<'p> {
        self.unary(Unary::Sin)
    }
    pub fn cos(self) -> Expr<'p> {
        self.unary(Unary::Cos)
    }
    pub fn abs(self) -> Expr<'p> {
        self.unary(Unary::Abs)
    }
    pub fn sign(self) -> Expr<'p> {
        self.unary(Unary::Sign)
    }
    pub fn floor(self) -> Expr<'p> {
        self.unary(Unary::Floor)
    }
    pub fn ceil(self) -> Expr<'p> {
        self.unary(Unary::Ceil)
    }
    pub fn round(self) -> Expr<'p> {
        self.unary(Unary::Round)
    }
    pub fn max(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Max, other)
    }
    pub fn min(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Min, other)
    }
    /// 1 where `self < other`, else 0.
    pub fn less(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Less, other)
    }
    /// 1 where `self <= other`, else 0.
    pub fn less_equal(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::LessEqual, other)
    }
    /// 1 where both are equal, else 0.
    pub fn equal(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Equal, other)
    }
    /// `self` to the power of `other`; small constant powers become products.
    pub fn pow(self, other: impl Operand<'p>) -> Expr<'p> {
        let other = other.term(self);
        match other.as_number() {
            Some(0.0) => self.number(1.0),
            Some(0.5) => self.sqrt(),
            Some(1.0) => self,
            Some(2.0) => self * self,
            Some(3.0) => self * self * self,
            Some(-1.0) => 1.0 / self,
            _ => self.binary(Binary::Pow, other),
        }
    }
    /// `yes` where `self` is not 0, else `no`.
    pub fn select(self, yes: impl Operand<'p>, no: impl Operand<'p>) -> Expr<'p> {
        let (yes, no) = (yes.term(self), no.term(self));
        if yes.index == no.index {
            return yes;
        }
        self.arena.push(Instruction::Select(self.index, yes.index, no.index))
    }
}

impl<'p> Neg for Expr<'p> {
    type Output = Expr<'p>;
    fn neg(self) -> Expr<'p> {
        match self.as_number() {
            Some(value) => self.number(-value),
            None => self.unary(Unary::Neg),
        }
    }
}

/// `+ - * /` between terms and numbers, in either order.
macro_rules! forward_operators {
    ($($operator:ident $method:ident),*) => {$(
        impl<'p, R: Operand<'p>> $operator<R> for Expr<'p> {
            type Output = Expr<'p>;
            fn $method(self, other: R) -> Expr<'p> {
                self.binary(Binary::$operator, other)
            }
        }
        impl<'p> $operator<Expr<'p>> for f64 {
            type Output = Expr<'p>;
            fn $method(self, other: Expr<'p>) -> Expr<'p> {
                other.number(self).binary(Binary::$operator, other)
            }
        }
    )*};
}
forward_operators!(Add add, Sub sub, Mul mul, Div div);
