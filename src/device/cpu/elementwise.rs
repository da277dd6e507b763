//! Elementwise programs: interpreted line by line over blocks that stay in the first-level cache.
//!
//! A line of a program is one tight loop over a block of [`BLOCK`] elements, so the interpreter's
//! own cost is spread over them and each loop vectorises. A long formula reads its inputs and
//! writes its outputs once, whatever happens in between. An input that nobody else holds gives its
//! memory to an output.
//! Read next: `feed.rs`, where inputs come from, and `math` for the functions inside the loops.

use std::ops::Range;

use rayon::prelude::*;

use super::feed::{Feed, Operand, View};
use super::math;
use super::memory::{Memory, with_scratch};
use super::simd::simd;
use crate::device::array::Array;
use crate::expr::{Binary, Instruction, Program, Unary};
use crate::rng;

/// Elements per block: half a dozen lines of 4 KiB fit the cache beside the data that streams through.
const BLOCK: usize = 1024;
/// Blocks end where rows of at least this many elements end, so that what is repeated for each row
/// is read where it lies.
const LONG_ROW: usize = 128;

/// Computes every output of the program over `count` elements.
pub fn run(program: &Program, inputs: Vec<Array>, count: usize) -> Vec<Memory> {
    let mut memories: Vec<Memory> = Vec::with_capacity(program.outputs().len());
    let sources: Vec<Result<usize, Array>> = inputs
        .into_iter()
        .map(|x| match memories.len() < program.outputs().len() {
            true => x.into_memory().map(|memory| {
                memories.push(memory);
                memories.len() - 1
            }),
            false => Err(x),
        })
        .collect();
    memories.resize_with(program.outputs().len(), || Memory::reserve(count));
    let feeds: Vec<Feed> = sources
        .iter()
        .map(|source| match source {
            Ok(output) => Feed::Output(*output),
            Err(x) => Feed::View(View::new(x)),
        })
        .collect();
    let mut outputs: Vec<&mut [f32]> = memories.iter_mut().map(Memory::values_mut).collect();
    run_on(program, &feeds, &mut outputs);
    memories
}

/// Copies the elements of `x` in row-major order.
pub fn copy(x: &Array, y: &mut [f32]) {
    run_on(&Program::build(|[x]| x), &[Feed::View(View::new(x))], &mut [y]);
}

fn run_on(program: &Program, feeds: &[Feed], outputs: &mut [&mut [f32]]) {
    let count = outputs[0].len();
    let plan = Plan::new(program, feeds);
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..count.div_ceil(super::GRAIN)).map(|_| Vec::new()).collect();
    for output in outputs.iter_mut() {
        for (piece, chunk) in pieces.iter_mut().zip(output.chunks_mut(super::GRAIN)) {
            piece.push(chunk);
        }
    }
    if pieces.len() <= 1 {
        return pieces.iter_mut().for_each(|outputs| plan.run(0, outputs));
    }
    let piece = |(piece, outputs): (usize, &mut Vec<&mut [f32]>)| plan.run(piece * super::GRAIN, outputs);
    pieces.par_iter_mut().enumerate().for_each(piece);
}

/// A program made ready to run over blocks.
struct Plan<'a> {
    program: &'a Program,
    feeds: &'a [Feed<'a>],
    /// Which register each line writes to.
    registers: Vec<usize>,
    /// Lines that somebody reads as a block even if they are one number.
    blocks: Vec<bool>,
    /// Lines that are an input in the memory of an output and are copied to their register, because
    /// that output is written while, or before, the line is read.
    loads: Vec<bool>,
    /// Blocks end at multiples of this, if there is such a length.
    row: Option<usize>,
}

impl<'a> Plan<'a> {
    fn new(program: &'a Program, feeds: &'a [Feed<'a>]) -> Plan<'a> {
        let lines = program.instructions();
        let mut blocks = vec![false; lines.len()];
        for instruction in lines {
            if matches!(instruction, Instruction::Unary(..) | Instruction::Select(..)) {
                instruction.operands().for_each(|operand| blocks[operand] = true);
            }
        }
        program.outputs().iter().for_each(|&output| blocks[output] = true);
        let row = feeds.iter().filter_map(|feed| match feed {
            Feed::View(view) => Some(view.run()),
            Feed::Output(_) => None,
        });
        let row = row.min().filter(|&run| run >= LONG_ROW);
        let outputs = program.outputs();
        let loads = (0..lines.len()).map(|line| outputs.len() == 1 || outputs.contains(&line)).collect();
        Plan { program, feeds, registers: registers_of(program), blocks, loads, row }
    }

    /// Runs the program over the elements from `start` on.
    fn run(&self, start: usize, outputs: &mut [&mut [f32]]) {
        let count = self.registers.iter().max().map_or(0, |last| last + 1);
        with_scratch(count * BLOCK, |room| {
            for (line, instruction) in self.program.instructions().iter().enumerate() {
                if let Instruction::Number(value) = instruction
                    && self.blocks[line]
                {
                    room[self.registers[line] * BLOCK..][..BLOCK].fill(*value as f32);
                }
            }
            let mut inputs = vec![None; self.feeds.len()];
            let (mut at, length) = (0, outputs[0].len());
            while at < length {
                let to_row_end = self.row.map_or(BLOCK, |row| row - (start + at) % row);
                let size = BLOCK.min(length - at).min(to_row_end);
                for (input, feed) in inputs.iter_mut().zip(self.feeds) {
                    *input = match feed {
                        Feed::View(view) => view.in_place(start + at, size),
                        Feed::Output(_) => None,
                    };
                }
                self.run_block(start, at..at + size, &inputs, room, outputs);
                at += size;
            }
        });
    }

    /// Runs every line over one block of the piece that begins at `start`.
    fn run_block(
        &self,
        start: usize,
        block: Range<usize>,
        inputs: &[Option<Operand<'a>>],
        room: &mut [f32],
        outputs: &mut [&mut [f32]],
    ) {
        let lines = self.program.instructions();
        // Nobody reads the last line's register, so a single output goes where it belongs at once.
        let straight_out = self.program.outputs() == [lines.len() - 1];
        for (line, instruction) in lines.iter().enumerate() {
            let (below, rest) = room.split_at_mut(self.registers[line] * BLOCK);
            let (own, above) = rest.split_at_mut(BLOCK);
            let own = &mut own[..block.len()];
            let last = straight_out && line == lines.len() - 1;
            if self.loads[line]
                && let Instruction::Input(i) = *instruction
                && let Feed::Output(output) = self.feeds[i]
            {
                own.copy_from_slice(&outputs[output][block.clone()]);
                continue;
            }
            let (target, outputs) = match last {
                true => (&mut outputs[0][block.clone()], &[][..]),
                false => (own, &*outputs),
            };
            let reader = Reader { plan: self, inputs, below, above, outputs, block: block.clone() };
            match *instruction {
                Instruction::Input(i) => match (inputs[i], &self.feeds[i]) {
                    (Some(Operand::Number(value)), _) if self.blocks[line] => target.fill(value),
                    (Some(Operand::Values(values)), _) if last => target.copy_from_slice(values),
                    (None, Feed::View(view)) => view.copy(start + block.start, target),
                    _ => {}
                },
                Instruction::Number(value) if last => target.fill(value as f32),
                Instruction::Number(_) => {}
                Instruction::Random(seed) => random(seed, (start + block.start) as u32, target),
                Instruction::Unary(f, a) => {
                    unary(f, reader.values(a), target);
                    if matches!(f, Unary::Sin | Unary::Cos) {
                        turn_far_angles(f, reader.values(a), target);
                    }
                }
                Instruction::Binary(f, a, b) => binary(f, reader.operand(a), reader.operand(b), target),
                Instruction::Select(c, a, b) => {
                    select(reader.values(c), reader.values(a), reader.values(b), target);
                }
            }
        }
        if straight_out {
            return;
        }
        let reader =
            Reader { plan: self, inputs, below: room, above: &[], outputs: &[], block: block.clone() };
        for (output, &line) in outputs.iter_mut().zip(self.program.outputs()) {
            output[block.clone()].copy_from_slice(reader.values(line));
        }
    }
}

/// What the lines of a block may read: inputs, outputs that hold inputs still, and all registers but
/// the one that is being written.
struct Reader<'a> {
    plan: &'a Plan<'a>,
    inputs: &'a [Option<Operand<'a>>],
    below: &'a [f32],
    above: &'a [f32],
    outputs: &'a [&'a mut [f32]],
    block: Range<usize>,
}

impl<'a> Reader<'a> {
    #[inline(always)]
    fn operand(&self, line: usize) -> Operand<'a> {
        match self.plan.program.instructions()[line] {
            Instruction::Number(value) => Operand::Number(value as f32),
            Instruction::Input(i) => match (self.inputs[i], &self.plan.feeds[i]) {
                (Some(operand), _) => operand,
                (None, Feed::Output(output)) if !self.plan.loads[line] => {
                    Operand::Values(&self.outputs[*output][self.block.clone()])
                }
                (None, _) => Operand::Values(self.register(line)),
            },
            _ => Operand::Values(self.register(line)),
        }
    }

    #[inline(always)]
    fn values(&self, line: usize) -> &'a [f32] {
        match self.operand(line) {
            Operand::Values(values) => values,
            Operand::Number(_) => self.register(line),
        }
    }

    #[inline(always)]
    fn register(&self, line: usize) -> &'a [f32] {
        let start = self.plan.registers[line] * BLOCK;
        match start.checked_sub(self.below.len() + BLOCK) {
            None => &self.below[start..][..self.block.len()],
            Some(start) => &self.above[start..][..self.block.len()],
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
            Unary::Exp => map(x, y, math::exp::<FMA>),
            Unary::ExpM1 => map(x, y, math::exp_m1::<FMA>),
            Unary::Ln => map(x, y, math::ln::<FMA>),
            Unary::Ln1p => map(x, y, math::ln_1p::<FMA>),
            Unary::Sqrt => map(x, y, f32::sqrt),
            Unary::Tanh => map(x, y, math::tanh::<FMA>),
            Unary::Sigmoid => map(x, y, math::sigmoid::<FMA>),
            Unary::Erf => map(x, y, math::erf::<FMA>),
            Unary::Gelu => map(x, y, math::gelu::<FMA>),
            Unary::GeluSlope => map(x, y, math::gelu_slope::<FMA>),
            Unary::Sin => map(x, y, math::sin::<FMA>),
            Unary::Cos => map(x, y, math::cos::<FMA>),
            Unary::Abs => map(x, y, f32::abs),
            Unary::Sign => map(x, y, |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }),
            Unary::Floor => map(x, y, f32::floor),
            Unary::Ceil => map(x, y, f32::ceil),
            Unary::Round => map(x, y, f32::round_ties_even),
        }
    }
}

/// Angles beyond the reach of `math` are rare: they are looked for in one pass, and the library
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
