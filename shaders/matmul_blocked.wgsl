// Matrix product, third rung: every invocation keeps a block of results in registers.
//
// A workgroup of 256 invocations computes a tile of 64 x 64 elements, each a block of 4 x 4. One step
// along k is 16 long: the workgroup fetches 64 x 16 elements of `a` and 16 x 64 of `b`, four per
// invocation each, and stores them so that an inner step reads one vector of either for 16
// multiplications. Who fetches what depends on which way the operand is dense, so that neighbours
// read neighbours.

const TILE = 64u;
const STEP = 16u;
const VECTORS = TILE / 4u;

// By step along k, then four rows (or columns) per vector.
var<workgroup> a_tile: array<vec4<f32>, STEP * VECTORS>;
var<workgroup> b_tile: array<vec4<f32>, STEP * VECTORS>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_of(flat_group(group, groups), TILE, TILE);
    if (tile.matrix >= params.batch) { return; }
    let a_start = a_base(tile.matrix);
    let b_start = b_base(tile.matrix);
    let slow = lane / VECTORS;
    let fast = lane % VECTORS;
    // (step along k, vector) that this invocation fetches.
    let a_place = select(vec2(slow, fast), vec2(fast, slow), params.a_column == 1u);
    let b_place = select(vec2(slow, fast), vec2(fast, slow), params.b_row == 1u);
    let a_row = tile.row + 4u * a_place.y;
    let b_column = tile.column + 4u * b_place.y;
    var sums = mat4x4<f32>();
    for (var start = 0u; start < params.k; start += STEP) {
        let a_k = start + a_place.x;
        a_tile[a_place.x * VECTORS + a_place.y] = vec4(
            a_at(a_start, a_row, a_k), a_at(a_start, a_row + 1u, a_k),
            a_at(a_start, a_row + 2u, a_k), a_at(a_start, a_row + 3u, a_k),
        );
        let b_k = start + b_place.x;
        b_tile[b_place.x * VECTORS + b_place.y] = vec4(
            b_at(b_start, b_k, b_column), b_at(b_start, b_k, b_column + 1u),
            b_at(b_start, b_k, b_column + 2u), b_at(b_start, b_k, b_column + 3u),
        );
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            sums += products(a_tile[k * VECTORS + slow], b_tile[k * VECTORS + fast]);
        }
        workgroupBarrier();
    }
    store_block(tile.matrix, tile.row + 4u * slow, tile.column + 4u * fast, sums);
}
