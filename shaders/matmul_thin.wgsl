// Matrix product of thin shapes: few rows, as in the factors of a low-rank adapter.
//
// A workgroup of 256 invocations computes 8 rows of 32 columns. Eight groups of 32 share the sum over
// k: each invocation multiplies every eighth step of one column for 8 rows at once, and the eight
// parts meet in workgroup memory. Few columns instead of few rows are the same product with its
// operands transposed and swapped, which the host does by their strides.

const ROWS = 8u;
const COLUMNS = 32u;
const PARTS = 8u;

// Two vectors of four rows per part and column.
var<workgroup> parts: array<vec4<f32>, 2u * PARTS * COLUMNS>;

@compute @workgroup_size(COLUMNS, PARTS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let tile = tile_of(flat_group(group, groups), ROWS, COLUMNS);
    if (tile.matrix >= params.batch) { return; }
    let rows_low = row_starts(tile, 0u);
    let rows_high = row_starts(tile, 4u);
    let column = b_base(tile.matrix) + min(tile.column + local.x, params.n - 1u) * params.b_column;
    var low = vec4<f32>();
    var high = vec4<f32>();
    for (var k = local.y; k < params.k; k += PARTS) {
        let right = b[column + k * params.b_row];
        low += right * four_of_a(rows_low + k * params.a_column);
        high += right * four_of_a(rows_high + k * params.a_column);
    }
    let place = local.y * COLUMNS + local.x;
    parts[place] = low;
    parts[PARTS * COLUMNS + place] = high;
    workgroupBarrier();
    // Each invocation finishes one of the 8 x 32 elements: row local.y.
    var dot = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        dot += parts[(local.y / 4u) * PARTS * COLUMNS + part * COLUMNS + local.x][local.y % 4u];
    }
    if (tile.row + local.y < params.m && tile.column + local.x < params.n) {
        store(tile.matrix, tile.row + local.y, tile.column + local.x, dot);
    }
}
