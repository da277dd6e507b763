//! Where the inputs of an elementwise program come from, block by block.
//! Read next: `elementwise.rs`, which runs the programs.

use crate::device::array::Array;

/// What a line of a program reads: a block, or a number that stays in a vector register.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    Values(&'a [f32]),
    Number(f32),
}

/// The elements of one input in row-major order.
pub enum Feed<'a> {
    /// What lies in this output's memory until the block is overwritten.
    Output(usize),
    /// What a view of a buffer shows.
    View(View<'a>),
}

pub struct View<'a> {
    values: &'a [f32],
    offset: isize,
    /// Size and stride of each run of axes that behaves as one, outermost first; at least one.
    groups: Vec<(usize, isize)>,
}

impl<'a> View<'a> {
    pub fn new(x: &'a Array) -> View<'a> {
        let mut groups = x.layout().groups();
        if groups.is_empty() {
            groups.push((1, 1));
        }
        View { values: super::buffer(x), offset: x.layout().offset() as isize, groups }
    }

    /// How many elements follow one another with the same stride.
    pub fn run(&self) -> usize {
        self.groups.last().expect("at least one group").0
    }

    /// The elements from `start` on as they lie in the buffer: neighbours, or one number for all.
    pub fn in_place(&self, start: usize, length: usize) -> Option<Operand<'a>> {
        let &(inner, stride) = self.groups.last().expect("at least one group");
        let column = start % inner;
        if column + length > inner {
            return None;
        }
        let base = self.base(start / inner, |_, _| ());
        match stride {
            1 => Some(Operand::Values(&self.values[base as usize + column..][..length])),
            0 => Some(Operand::Number(self.values[base as usize])),
            _ => None,
        }
    }

    /// Where a row of the innermost group begins; `index` is told its index along each outer group.
    fn base(&self, mut row: usize, mut index: impl FnMut(usize, usize)) -> isize {
        let outer = &self.groups[..self.groups.len() - 1];
        let mut base = self.offset;
        for (axis, &(size, stride)) in outer.iter().enumerate().rev() {
            index(axis, row % size);
            base += (row % size) as isize * stride;
            row /= size;
        }
        base
    }

    /// Copies the elements from `start` on to `block`, run by run of the innermost group.
    pub fn copy(&self, start: usize, block: &mut [f32]) {
        let (&(inner, stride), outer) = self.groups.split_last().expect("at least one group");
        let mut index = vec![0; outer.len()];
        let mut base = self.base(start / inner, |axis, at| index[axis] = at);
        let mut column = start % inner;
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
