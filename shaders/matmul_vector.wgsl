// Matrix times vector, as in decoding one token: one workgroup computes one element.
//
// Its 64 invocations take every 64th term of the dot product and fold them in a tree. Meant for a
// matrix that is dense along k, so that neighbours read neighbours.

@compute @workgroup_size(ROW_GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_of(flat_group(group, groups), 1u, 1u);
    if (tile.matrix >= params.batch) { return; }
    let a_row = a_base(tile.matrix) + tile.row * params.a_row;
    let b_column = b_base(tile.matrix) + tile.column * params.b_column;
    var part = 0.0;
    for (var k = lane; k < params.k; k += ROW_GROUP) {
        part += a[a_row + k * params.a_column] * b[b_column + k * params.b_row];
    }
    let dot = row_sum(part, lane);
    if (lane == 0u) {
        store(tile.matrix, tile.row, tile.column, dot);
    }
}
