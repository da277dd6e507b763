//! Elementwise programs: interpreted line by line over blocks that stay in the first-level cache.
//!
//! A line of a program is one tight loop over a block of [`BLOCK`] elements, so the interpreter's
//! own cost is spread over them and each loop vectorises. A long formula reads its inputs and
//! writes its outputs once, whatever happens in between.
//! Read next: `math.rs` for the functions inside the loops.

use rayon::prelude::*;

use super::math;
use super::memory::Memory;
use super::simd::simd;
use crate::device::array::Array;
use crate::expr::{Binary, Instruction, Program, Unary};
use crate::rng;

/// Elements per block: a dozen lines of 2 KiB fit the cache beside the data that streams through.
const BLOCK: usize = 512;

/// Computes every output of the program over all elements.
pub fn run(program: &Program, inputs: &[&Array], outputs: &mut [&mut [f32]]) {
    let count = outputs[0].len();
    let feeds: Vec<Feed> = inputs.iter().map(|x| Feed::new(x)).collect();
    let registers = registers_of(program);
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..count.div_ceil(super::GRAIN)).map(|_| Vec::new()).collect();
    for output in outputs.iter_mut() {
        for (piece, chunk) in pieces.iter_mut().zip(output.chunks_mut(super::GRAIN)) {
            piece.push(chunk);
        }
    }
    if pieces.len() <= 1 {
        pieces.iter_mut().for_each(|outputs| run_piece(program, &registers, &feeds, 0, outputs));
        return;
    }
    pieces.par_iter_mut().enumerate().for_each(|(piece, outputs)| {
        run_piece(program, &registers, &feeds, piece * super::GRAIN, outputs);
    });
}

/// Where an input's elements come from.
struct Feed<'a> {
    values: &'a [f32],
    offset: isize,
    /// Size and stride of each run of axes that behaves as one, outermost first.
    groups: Vec<(usize, isize)>,
}

impl<'a> Feed<'a> {
    fn new(x: &'a Array) -> Feed<'a> {
        let mut groups = x.layout().groups();
        if groups.is_empty() {
            groups.push((1, 1));
        }
        Feed { values: super::buffer(x), offset: x.layout().offset() as isize, groups }
    }

    /// The elements from `start` on, when they lie densely.
    fn dense(&self, start: usize, length: usize) -> Option<&'a [f32]> {
        match self.groups[..] {
            [(_, 1)] => Some(&self.values[self.offset as usize + start..][..length]),
            _ => None,
        }
    }

    /// Copies the elements from `start` on to `block`, run by run of the innermost axis.
    fn copy(&self, start: usize, block: &mut [f32]) {
        let (&(inner, stride), outer) = self.groups.split_last().expect("at least one group");
        let mut index = vec![0; outer.len()];
        let (mut row, mut column) = (start / inner, start % inner);
        let mut base = self.offset;
        for (axis, &(size, stride)) in outer.iter().enumerate().rev() {
            index[axis] = row % size;
            row /= size;
            base += index[axis] as isize * stride;
        }
        let mut filled = 0;
        while filled < block.len() {
            let run = (inner - column).min(block.len() - filled);
            let from = base + column as isize * stride;
            let target = &mut block[filled..filled + run];
            match stride {
                1 => target.copy_from_slice(&self.values[from as usize..][..run]),
                0 => target.fill(self.values[from as usize]),
                _ => {
                    for (i, x) in target.iter_mut().enumerate() {
                        *x = self.values[(from + i as isize * stride) as usize];
                    }
                }
            }
            filled += run;
            column = 0;
            for (axis, &(size, stride)) in outer.iter().enumerate().rev() {
                index[axis] += 1;
                base += stride;
                if index[axis] < size {
                    break;
                }
                index[axis] = 0;
                base -= size as isize * stride;
            }
        }
    }
}

/// Which register each line writes to. A register is used again once nobody reads its line any
/// more, so that even a long formula stays in the first-level cache.
fn registers_of(program: &Program) -> Vec<usize> {
    let lines = program.instructions();
    let mut last_read: Vec<usize> = (0..lines.len()).collect();
    for (line, instruction) in lines.iter().enumerate() {
        instruction.operands().for_each(|operand| last_read[operand] = line);
    }
    program.outputs().iter().for_each(|&output| last_read[output] = usize::MAX);
    let is_number = |line: usize| matches!(lines[line], Instruction::Number(_));
    let (mut registers, mut free, mut count) = (Vec::with_capacity(lines.len()), Vec::new(), 0);
    for (line, instruction) in lines.iter().enumerate() {
        // A number fills its register once, before the first block, and shares it with nobody.
        let reused = if is_number(line) { None } else { free.pop() };
        registers.push(reused.unwrap_or_else(|| {
            count += 1;
            count - 1
        }));
        let mut done: Vec<usize> = instruction
            .operands()
            .filter(|&operand| last_read[operand] == line && !is_number(operand))
            .collect();
        done.sort_unstable();
        done.dedup();
        free.extend(done.into_iter().map(|operand| registers[operand]));
    }
    registers
}

/// Runs the program over the elements from `start` on.
fn run_piece(
    program: &Program,
    register_of: &[usize],
    feeds: &[Feed],
    start: usize,
    outputs: &mut [&mut [f32]],
) {
    let lines = program.instructions();
    let count = register_of.iter().max().map_or(0, |last| last + 1);
    let mut registers: Vec<Memory> = (0..count).map(|_| Memory::reserve(BLOCK)).collect();
    for (line, instruction) in lines.iter().enumerate() {
        if let Instruction::Number(value) = instruction {
            registers[register_of[line]].values_mut().fill(*value as f32);
        }
    }
    let length = outputs[0].len();
    let straight_out = program.outputs() == [lines.len() - 1];
    for at in (0..length).step_by(BLOCK) {
        let size = BLOCK.min(length - at);
        for (line, instruction) in lines.iter().enumerate() {
            // Taken out while it is written; no operand lies in it.
            let mut own = std::mem::take(&mut registers[register_of[line]]);
            let values = |line: usize| {
                match lines[line] {
                    Instruction::Input(i) => feeds[i].dense(start + at, size),
                    _ => None,
                }
                .unwrap_or_else(|| &registers[register_of[line]][..size])
            };
            let operand = |line: usize| match lines[line] {
                Instruction::Number(value) => Operand::Number(value as f32),
                _ => Operand::Values(values(line)),
            };
            // Nobody reads the last line's register, so it goes where it belongs at once.
            let last = straight_out && line == lines.len() - 1;
            let target = if last { &mut outputs[0][at..at + size] } else { &mut own.values_mut()[..size] };
            match *instruction {
                Instruction::Number(value) if last => target.fill(value as f32),
                Instruction::Number(_) => {}
                Instruction::Input(i) => match feeds[i].dense(start + at, size) {
                    Some(values) if last => target.copy_from_slice(values),
                    Some(_) => {}
                    None => feeds[i].copy(start + at, target),
                },
                Instruction::Random(seed) => random(seed, (start + at) as u32, target),
                Instruction::Unary(f, a) => {
                    unary(f, values(a), target);
                    if matches!(f, Unary::Sin | Unary::Cos) {
                        turn_far_angles(f, values(a), target);
                    }
                }
                Instruction::Binary(f, a, b) => binary(f, operand(a), operand(b), target),
                Instruction::Select(c, a, b) => select(values(c), values(a), values(b), target),
            }
            registers[register_of[line]] = own;
        }
        if straight_out {
            continue;
        }
        for (output, &line) in outputs.iter_mut().zip(program.outputs()) {
            let target = &mut output[at..at + size];
            match lines[line] {
                Instruction::Input(i) => feeds[i].copy(start + at, target),
                _ => target.copy_from_slice(&registers[register_of[line]][..size]),
            }
        }
    }
}

/// What a line reads: a block, or a number that stays in a vector register.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Values(&'a [f32]),
    Number(f32),
}

#[inline(always)]
fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x);
    }
}

#[inline(always)]
fn zip(a: Operand, b: Operand, y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Operand::Values(a), Operand::Values(b)) => {
            y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b));
        }
        (Operand::Values(a), Operand::Number(b)) => map(a, y, |a| f(a, b)),
        (Operand::Number(a), Operand::Values(b)) => map(b, y, |b| f(a, b)),
        (Operand::Number(a), Operand::Number(b)) => y.fill(f(a, b)),
    }
}

simd! {
    fn unary(f: Unary, x: &[f32], y: &mut [f32]) {
        match f {
            Unary::Neg => map(x, y, |x| -x),
            Unary::Exp => map(x, y, math::exp),
            Unary::ExpM1 => map(x, y, math::exp_m1),
            Unary::Ln => map(x, y, math::ln),
            Unary::Ln1p => map(x, y, math::ln_1p),
            Unary::Sqrt => map(x, y, f32::sqrt),
            Unary::Tanh => map(x, y, math::tanh),
            Unary::Sigmoid => map(x, y, math::sigmoid),
            Unary::Erf => map(x, y, math::erf),
            Unary::Sin => map(x, y, math::sin),
            Unary::Cos => map(x, y, math::cos),
            Unary::Abs => map(x, y, f32::abs),
            Unary::Sign => map(x, y, |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }),
            Unary::Floor => map(x, y, f32::floor),
            Unary::Ceil => map(x, y, f32::ceil),
            Unary::Round => map(x, y, f32::round_ties_even),
        }
    }
}

/// Angles beyond the reach of `math.rs` are rare: they are looked for in one pass, and the library
/// turns them one by one.
fn turn_far_angles(f: Unary, x: &[f32], y: &mut [f32]) {
    let far = |x: &f32| x.abs() > math::TRIGONOMETRIC_LIMIT;
    if x.iter().fold(false, |any, x| any | far(x)) {
        for (y, &x) in y.iter_mut().zip(x).filter(|(_, x)| far(x)) {
            *y = if f == Unary::Sin { x.sin() } else { x.cos() };
        }
    }
}

simd! {
    fn binary(f: Binary, a: Operand, b: Operand, y: &mut [f32]) {
        match f {
            Binary::Add => zip(a, b, y, |a, b| a + b),
            Binary::Sub => zip(a, b, y, |a, b| a - b),
            Binary::Mul => zip(a, b, y, |a, b| a * b),
            Binary::Div => zip(a, b, y, |a, b| a / b),
            Binary::Max => zip(a, b, y, |a, b| if a.is_nan() || a > b { a } else { b }),
            Binary::Min => zip(a, b, y, |a, b| if a.is_nan() || a < b { a } else { b }),
            Binary::Pow => zip(a, b, y, f32::powf),
            Binary::Less => zip(a, b, y, |a, b| if a < b { 1.0 } else { 0.0 }),
            Binary::LessEqual => zip(a, b, y, |a, b| if a <= b { 1.0 } else { 0.0 }),
            Binary::Equal => zip(a, b, y, |a, b| if a == b { 1.0 } else { 0.0 }),
        }
    }
}

simd! {
    fn select(condition: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) {
        for (((y, &condition), &a), &b) in y.iter_mut().zip(condition).zip(a).zip(b) {
            *y = if condition != 0.0 { a } else { b };
        }
    }
}

simd! {
    fn random(seed: u64, start: u32, y: &mut [f32]) {
        for (i, y) in y.iter_mut().enumerate() {
            *y = rng::uniform(seed, start.wrapping_add(i as u32));
        }
    }
}
