//! Elementwise programs as WGSL: one line of shader for each line of the program.
//!
//! The text depends on the formula and on how many axes each input is walked along; numbers, seeds,
//! offsets, sizes and strides are words of the parameters. Two calls with the same text share a
//! pipeline, whatever the sizes, the learning rate or the dropout mask.
//! Read next: `mod.rs`.

use std::fmt::Write;

use super::pipeline::Sharing;
use crate::expr::{Binary, Instruction, Program, Unary};
use crate::layout::Layout;

/// Words of parameters that `elementwise.wgsl` has room for.
const WORDS: usize = 128;
const MARKER: &str = "//PROGRAM//";

/// A program as shader text and its parameters.
pub struct Rendered {
    /// The lines that take the place of the marker, then the bindings; the key of the pipeline.
    pub text: String,
    /// The parameters.
    pub words: Vec<u32>,
    bindings: usize,
}

impl Rendered {
    /// The whole shader: `elementwise.wgsl` with the program in its place.
    pub fn shader(&self) -> String {
        let (bindings, lines) = self.text.split_at(self.bindings);
        super::pipeline::source("elementwise", Sharing::Alone).replace(MARKER, lines) + bindings
    }
}

/// An input that is bound in several windows, one after the other: only elements that lie in the
/// present one are computed.
#[derive(Clone, Copy)]
pub struct Guard {
    /// Which input.
    pub input: usize,
    /// Elements of the window.
    pub length: usize,
}

/// Words that the parameters take: `None` if there is no room for them.
fn room(program: &Program, layouts: &[&Layout]) -> Option<()> {
    let of_line = |line: &Instruction| match line {
        Instruction::Number(_) => 1,
        Instruction::Random(_) => 2,
        _ => 0,
    };
    let of_program: usize = program.instructions().iter().map(of_line).sum();
    let of_layouts: usize = layouts.iter().map(|layout| 1 + 2 * layout.groups().len()).sum();
    let of_guard = 1;
    (2 + of_program + of_layouts + of_guard <= WORDS).then_some(())
}

/// The program over elements `start .. start + count` of inputs that lie as `layouts` say. `None` if
/// the parameters do not fit; with dense inputs they fit unless the formula has a hundred numbers.
pub fn render(
    program: &Program,
    layouts: &[&Layout],
    start: usize,
    count: usize,
    guard: Option<Guard>,
) -> Option<Rendered> {
    room(program, layouts)?;
    let mut text = String::with_capacity(1024);
    for (input, binding) in (0..layouts.len()).zip(1..) {
        line(
            &mut text,
            format_args!("@group(0) @binding({binding}) var<storage, read> in{input}: array<f32>;"),
        );
    }
    for (output, binding) in (0..program.outputs().len()).zip(layouts.len() + 1..) {
        line(
            &mut text,
            format_args!("@group(0) @binding({binding}) var<storage, read_write> out{output}: array<f32>;"),
        );
    }
    let bindings = text.len();
    let mut words = Words(vec![count as u32, start as u32]);
    for (number, instruction) in program.instructions().iter().enumerate() {
        let value = match *instruction {
            Instruction::Input(input) => {
                position(&mut text, &mut words, input, layouts[input]);
                if let Some(guard) = guard.filter(|guard| guard.input == input) {
                    let length = words.add(guard.length as u32);
                    line(&mut text, format_args!("if (p{input} >= {length}) {{ return; }}"));
                }
                format!("in{input}[p{input}]")
            }
            Instruction::Number(value) => format!("bitcast<f32>({})", words.add((value as f32).to_bits())),
            Instruction::Random(seed) => {
                let (low, high) = (words.add(seed as u32), words.add((seed >> 32) as u32));
                format!("uniform_at({low}, {high}, i)")
            }
            Instruction::Unary(f, a) => unary(f, a),
            Instruction::Binary(f, a, b) => binary(f, a, b),
            Instruction::Select(condition, a, b) => format!("select(t{b}, t{a}, t{condition} != 0.0)"),
        };
        line(&mut text, format_args!("let t{number} = {value};"));
    }
    for (output, number) in program.outputs().iter().enumerate() {
        line(&mut text, format_args!("out{output}[at] = t{number};"));
    }
    words.0.resize(WORDS, 0);
    Some(Rendered { text, words: words.0, bindings })
}

fn line(text: &mut String, what: std::fmt::Arguments) {
    writeln!(text, "{what}").expect("a string takes everything");
}

/// Parameters in the order in which the text names them.
struct Words(Vec<u32>);

impl Words {
    /// Adds a word and gives the expression that reads it.
    fn add(&mut self, word: u32) -> String {
        let at = self.0.len();
        self.0.push(word);
        format!("words[{}].{}", at / 4, ["x", "y", "z", "w"][at % 4])
    }
}

/// Lines that compute where element `i` of an input lies: `p0`, `p1`, ..
fn position(text: &mut String, words: &mut Words, input: usize, layout: &Layout) {
    let groups = layout.groups();
    line(text, format_args!("var p{input} = {};", words.add(layout.offset() as u32)));
    line(text, format_args!("var r{input} = i;"));
    for (at, &(size, stride)) in groups.iter().enumerate().rev() {
        let index = match at {
            0 => format!("r{input}"),
            _ => format!("(r{input} % {})", words.add(size as u32)),
        };
        match stride {
            0 => {}
            1 => line(text, format_args!("p{input} += {index};")),
            // A negative stride wraps around, and so does the sum.
            _ => {
                let stride = words.add(stride as u32);
                line(text, format_args!("p{input} += {index} * {stride};"));
            }
        }
        if at > 0 {
            line(text, format_args!("r{input} /= {};", words.add(size as u32)));
        }
    }
}

fn unary(f: Unary, a: usize) -> String {
    let name = match f {
        Unary::Neg => return format!("-t{a}"),
        Unary::Exp => "exp_of",
        Unary::ExpM1 => "exp_m1",
        Unary::Ln => "ln",
        Unary::Ln1p => "ln_1p",
        Unary::Sqrt => "sqrt",
        Unary::Tanh => "tanh_of",
        Unary::Sigmoid => "sigmoid",
        Unary::Erf => "erf",
        Unary::Gelu => "gelu",
        Unary::GeluSlope => "gelu_slope",
        Unary::Sin => "sine",
        Unary::Cos => "cosine",
        Unary::Abs => "abs",
        Unary::Sign => "sign_of",
        Unary::Floor => "floor",
        Unary::Ceil => "ceil",
        // Halves go to the even neighbour in WGSL too.
        Unary::Round => "round",
    };
    format!("{name}(t{a})")
}

fn binary(f: Binary, a: usize, b: usize) -> String {
    let name = match f {
        Binary::Add => return format!("t{a} + t{b}"),
        Binary::Sub => return format!("t{a} - t{b}"),
        Binary::Mul => return format!("t{a} * t{b}"),
        Binary::Div => return format!("t{a} / t{b}"),
        Binary::Max => "maximum",
        Binary::Min => "minimum",
        Binary::Pow => "power",
        Binary::Less => "less",
        Binary::LessEqual => "less_equal",
        Binary::Equal => "equal",
    };
    format!("{name}(t{a}, t{b})")
}
