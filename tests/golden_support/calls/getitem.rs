//! Indexing with brackets: numbers, slices, an ellipsis, and lists of indices.

use engrad::Tensor;

use super::super::argument::{Argument, Call, Integers, checked_ids, from_the_end};

/// `x[a, b, ..]`
pub fn getitem(c: &Call) -> Tensor {
    let indices = match c.get(0, "index") {
        Argument::List(indices) => indices.clone(),
        one => vec![one.clone()],
    };
    let named = indices.iter().filter(|index| !matches!(index, Argument::Ellipsis)).count();
    let (mut x, mut axis) = (c.x(), 0);
    let mut lists: Vec<(usize, Integers)> = Vec::new();
    for index in &indices {
        match index {
            Argument::Ellipsis => axis += c.x().ndim() - named,
            Argument::Number(at) => {
                let size = x.sizes()[axis] as isize;
                let at = *at as isize;
                x = x.select(axis as isize, if at < 0 { at + size } else { at } as usize);
            }
            Argument::Slice(parts) => {
                x = sliced(&x, axis as isize, *parts);
                axis += 1;
            }
            list => {
                lists.push((axis, whole_numbers(list)));
                axis += 1;
            }
        }
    }
    picked(&x, &lists)
}

/// `x[start:stop:step]` along an axis: parts may be missing, count from the end, or lie outside.
pub fn sliced(x: &Tensor, axis: isize, [start, stop, step]: [Option<isize>; 3]) -> Tensor {
    let size = x.size(axis) as isize;
    let place = |at: isize| (if at < 0 { at + size } else { at }).clamp(0, size) as usize;
    let (start, stop) = (place(start.unwrap_or(0)), place(stop.unwrap_or(size)));
    x.slice(axis, start..stop.max(start), step.unwrap_or(1) as usize)
}

fn whole_numbers(list: &Argument) -> Integers {
    match list {
        Argument::Integers(whole) => whole.clone(),
        Argument::List(numbers) => {
            let number = |number: &Argument| match number {
                Argument::Number(number) => *number as i64,
                _ => panic!("harness: an index list holds numbers"),
            };
            Integers { values: numbers.iter().map(number).collect(), sizes: vec![numbers.len()] }
        }
        _ => panic!("harness: this index is not known"),
    }
}

/// Lists pick together, element by element. What they pick stands where the first list did, or in
/// front when other axes lie between the lists.
fn picked(x: &Tensor, lists: &[(usize, Integers)]) -> Tensor {
    let Some((first, _)) = lists.first() else { return x.clone() };
    let axes: Vec<usize> = lists.iter().map(|(axis, _)| *axis).collect();
    let together = axes.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let target = if together { *first } else { 0 };
    let others: Vec<usize> = (0..x.ndim()).filter(|axis| !axes.contains(axis)).collect();
    let order: Vec<isize> = axes.iter().chain(&others).map(|&axis| axis as isize).collect();
    let kept: Vec<usize> = others.iter().map(|&axis| x.sizes()[axis]).collect();
    let sizes: Vec<usize> = axes.iter().map(|&axis| x.sizes()[axis]).collect();
    let rows: usize = sizes.iter().product();
    let table = x.permute(&order).reshape([rows, kept.iter().product()]);
    let count = lists[0].1.values.len();
    let mut flat = vec![0; count];
    for ((_, list), &size) in lists.iter().zip(&sizes) {
        let list = from_the_end(list, size);
        flat.iter_mut().zip(&list.values).for_each(|(flat, index)| *flat = *flat * size as i64 + index);
    }
    let ids = checked_ids(&Integers { values: flat, sizes: vec![count] }, rows, None);
    let mut picked = table.embedding(&ids).reshape([&[count], &kept[..]].concat());
    picked = picked.move_axis(0, target as isize);
    let mut sizes = picked.sizes().to_vec();
    sizes.splice(target..target + 1, lists[0].1.sizes.iter().copied());
    picked.reshape(sizes)
}
