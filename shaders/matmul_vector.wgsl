// Matrix times vector, as in decoding one token: one workgroup computes one element.
//
// Its 64 invocations take every 64th term of the dot product and fold them in a tree. Meant for a
// matrix that is dense along k, so that neighbours read neighbours.

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let tile = tile_of(row_of(group, here), 1u, 1u);
    if (tile.matrix >= params.batch) { return; }
    let a_row = a_base(tile.matrix) + tile.row * params.a_row;
    let b_column = b_base(tile.matrix) + tile.column * params.b_column;
    var part = 0.0;
    for (var k = first; k < params.k; k += ROW_STEP) {
        part += a[a_row + k * params.a_column] * b[b_column + k * params.b_row];
    }
    let dot = row_sum(part, here);
    if (first == 0u) {
        store(tile.matrix, tile.row, tile.column, dot);
    }
}
