//! Einstein sums of two operands, as one batched matrix product.

use std::collections::BTreeMap;

use crate::error::refuse;
use crate::tensor::Tensor;

impl Tensor {
    /// The sum of products that a formula like `"bij,bjk->bik"` names, over every letter that is not
    /// in the result.
    ///
    /// **Panics** when the formula does not fit the operands.
    #[track_caller]
    pub fn einsum(formula: &str, a: &Tensor, b: &Tensor) -> Tensor {
        let parsed = formula.split_once("->").and_then(|(inputs, output)| {
            let (left, right) = inputs.split_once(',')?;
            Some(
                [left, right, output]
                    .map(|letters| letters.chars().filter(|c| *c != ' ').collect::<Vec<char>>()),
            )
        });
        let Some([left, right, output]) = parsed else {
            refuse("einsum", format_args!("{formula:?} is not of the form \"ij,jk->ik\""))
        };
        let (a, left) = distinct(formula, a, left);
        let (b, right) = distinct(formula, b, right);
        // A shared letter means one size; an axis of size 1 is repeated.
        let mut size_of: BTreeMap<char, usize> = left.iter().copied().zip(a.sizes().to_vec()).collect();
        for (&letter, &size) in right.iter().zip(b.sizes()) {
            let known = size_of.entry(letter).or_insert(size);
            if *known == 1 {
                *known = size;
            } else if size != 1 && size != *known {
                refuse("einsum", format_args!("{formula:?} of {:?} and {:?}", a.sizes(), b.sizes()));
            }
        }
        // Letters in one operand only and not in the result can be summed at once.
        let (a, left) = summed(a, left, |letter| right.contains(&letter) || output.contains(&letter));
        let (b, right) = summed(b, right, |letter| left.contains(&letter) || output.contains(&letter));
        let batch: Vec<char> =
            output.iter().copied().filter(|c| left.contains(c) && right.contains(c)).collect();
        let inner: Vec<char> =
            left.iter().copied().filter(|c| right.contains(c) && !output.contains(c)).collect();
        let rows: Vec<char> = left.iter().copied().filter(|c| !right.contains(c)).collect();
        let columns: Vec<char> = right.iter().copied().filter(|c| !left.contains(c)).collect();
        let known = [&batch[..], &rows, &columns].concat();
        if output.len() != known.len() || output.iter().any(|c| !known.contains(c)) {
            refuse("einsum", format_args!("{formula:?}: the result names a letter twice or an unknown one"));
        }
        let sizes = |letters: &[char]| letters.iter().map(|letter| size_of[letter]).collect::<Vec<usize>>();
        let product = |letters: &[char]| sizes(letters).iter().product::<usize>();
        let arranged = |x: &Tensor, from: &[char], groups: [&[char]; 3]| {
            let order: Vec<isize> = groups
                .concat()
                .iter()
                .map(|c| {
                    from.iter().position(|other| other == c).expect("each letter was sorted into a group")
                        as isize
                })
                .collect();
            // Broadcasting a shared axis of size 1 needs its full size before axes are joined.
            x.permute(&order).expand(sizes(&groups.concat())).reshape(groups.map(product))
        };
        let a = arranged(&a, &left, [&batch, &rows, &inner]);
        let b = arranged(&b, &right, [&batch, &inner, &columns]);
        let order: Vec<isize> = output
            .iter()
            .map(|c| {
                known.iter().position(|other| other == c).expect("the result names known letters only")
                    as isize
            })
            .collect();
        a.matmul(&b).reshape(sizes(&known)).permute(&order)
    }
}

/// Takes the diagonal where a letter stands twice in one operand.
#[track_caller]
fn distinct(formula: &str, x: &Tensor, mut letters: Vec<char>) -> (Tensor, Vec<char>) {
    if letters.len() != x.ndim() {
        refuse("einsum", format_args!("{formula:?} names {} axes of {:?}", letters.len(), x.sizes()));
    }
    let mut x = x.clone();
    while let Some((first, second)) = (0..letters.len())
        .flat_map(|i| (i + 1..letters.len()).map(move |j| (i, j)))
        .find(|&(i, j)| letters[i] == letters[j])
    {
        if x.sizes()[first] != x.sizes()[second] {
            refuse("einsum", format_args!("{formula:?}: one letter for two sizes of {:?}", x.sizes()));
        }
        x = x.move_axis(second as isize, -1).move_axis(first as isize, -2).diagonal(0);
        let letter = letters[first];
        letters.remove(second);
        letters.remove(first);
        letters.push(letter);
    }
    (x, letters)
}

fn summed(x: Tensor, letters: Vec<char>, kept: impl Fn(char) -> bool) -> (Tensor, Vec<char>) {
    let axes: Vec<isize> = (0..letters.len()).filter(|&i| !kept(letters[i])).map(|i| i as isize).collect();
    let letters = letters.into_iter().filter(|&letter| kept(letter)).collect();
    (if axes.is_empty() { x } else { x.sum(&axes[..]) }, letters)
}
