"""Triton kernels of the Haar L1 loss: forward (loss and signs) and backward (gradient from signs), NCHW planes.

One thread owns whole blocks of 2**L x 2**L pixels, L = 1..3. The rows of a block are separate tensors, and so are its
column chunks of VEC pixels, so that every load is one vector of VEC pixels, vertical butterflies are plain sums of two
tensors, and horizontal ones split pairs that already sit in one thread. Nothing passes through shared memory but the
one sum of the loss at the end. Butterflies have no factor 1/2: a coefficient of level k is 2**k times the orthonormal
one, and the caller's weights make up for it.

Signs have 2 bits each (0: zero or NaN, 1: positive, 3: negative), in the order LH, HL, HH from the lowest bit:

    L = 1     one byte for a 2x2 block: LH, HL, HH, LL
    L = 2, 3  one int32 for a 4x4 block: bits 0, 6, 12, 18: level 1 of its upper left, upper right, lower left, lower
              right 2x2 block; bit 24: level 2; bit 30: LL if L = 2. If L = 3, bit 30 of the four words of an 8x8 block
              hold LH, HL, HH and LL of level 3, in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split_pairs(x):
    """[R, C] -> the even and the odd columns, [R, C/2] each."""
    return tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))


@triton.jit
def join_pairs(even, odd):
    return tl.reshape(tl.join(even, odd), (even.shape[0], even.shape[1] * 2))


@triton.jit
def code(c):
    """2 bits: 0 for zero and NaN, 1 for positive, 3 for negative."""
    return tl.where(c > 0, 1, 0) | tl.where(c < 0, 3, 0)


@triton.jit
def code3(lh, hl, hh):
    return code(lh) | (code(hl) << 2) | (code(hh) << 4)


@triton.jit
def signed(codes, BIT: tl.constexpr, weight):
    """weight * sign for the code at bit BIT, by bit operations: the conversion of integers is slow on GPUs."""
    keep = (codes << (31 - BIT)) >> 31
    flip = (codes << (30 - BIT)) & -2147483648
    return ((weight.to(tl.int32, bitcast=True) ^ flip) & keep).to(tl.float32, bitcast=True)


@triton.jit
def fold(x, COLUMNS: tl.constexpr):
    """Adds neighbouring columns until COLUMNS are left; they are in one thread."""
    if x.shape[1] > COLUMNS:
        even, odd = split_pairs(x)
        return fold(even + odd, COLUMNS)
    else:
        return x


@triton.jit
def butterfly_rows(upper, lower):
    """Two rows of pixels, [R, C] each -> LL, LH, HL, HH, [R, C/2] each."""
    total_even, total_odd = split_pairs(upper + lower)
    gap_even, gap_odd = split_pairs(upper - lower)
    return total_even + total_odd, gap_even + gap_odd, total_even - total_odd, gap_even - gap_odd


@triton.jit
def butterfly(a, b, c, d):
    """The four pixels of 2x2 blocks -> LL, LH, HL, HH."""
    upper, lower, left, right = a + b, c + d, a - b, c - d
    return upper + lower, upper - lower, left + right, left - right


@triton.jit
def inverse_rows(ll, lh, hl, hh):
    """LL, LH, HL, HH, [R, C] each -> two rows of pixels, [R, 2C] each."""
    total = join_pairs(ll + hl, ll - hl)
    gap = join_pairs(lh + hh, lh - hh)
    return total + gap, total - gap


@triton.jit
def inverse(ll, lh, hl, hh):
    upper, lower, left, right = ll + lh, ll - lh, hl + hh, hl - hh
    return upper + left, upper - left, lower + right, lower - right


@triton.jit
def analyse(x, ROWS: tl.constexpr, CHUNKS: tl.constexpr, PAIRS: tl.constexpr, R: tl.constexpr, N: tl.constexpr):
    """One level on ROWS x CHUNKS tensors (row-major).

    PAIRS: the two columns of a block lie side by side in one tensor; otherwise they lie in two chunks.
    Returns the LL tensors, the 6-bit codes of their details, and sum|LH|, sum|HL|, sum|HH|, [R, N] each.
    """
    low = ()
    codes = ()
    sum_lh = tl.zeros((R, N), tl.float32)
    sum_hl = tl.zeros((R, N), tl.float32)
    sum_hh = tl.zeros((R, N), tl.float32)
    for i in tl.static_range(ROWS // 2):
        for j in tl.static_range(CHUNKS if PAIRS else CHUNKS // 2):
            if PAIRS:
                ll, lh, hl, hh = butterfly_rows(x[2 * i * CHUNKS + j], x[(2 * i + 1) * CHUNKS + j])
            else:
                ll, lh, hl, hh = butterfly(
                    x[2 * i * CHUNKS + 2 * j],
                    x[2 * i * CHUNKS + 2 * j + 1],
                    x[(2 * i + 1) * CHUNKS + 2 * j],
                    x[(2 * i + 1) * CHUNKS + 2 * j + 1],
                )
            sum_lh += fold(tl.abs(lh), N)
            sum_hl += fold(tl.abs(hl), N)
            sum_hh += fold(tl.abs(hh), N)
            low = low + (ll,)
            codes = codes + (code3(lh, hl, hh),)
    return low, codes, sum_lh, sum_hl, sum_hh


@triton.jit
def word(fine_upper, fine_lower, coarse):
    """The codes of a row of 4x4 blocks without their LL, from those of level 1 (two rows of blocks) and level 2."""
    upper_left, upper_right = split_pairs(fine_upper)
    lower_left, lower_right = split_pairs(fine_lower)
    return upper_left | (upper_right << 6) | (lower_left << 12) | (lower_right << 18) | (coarse << 24)


@triton.jit
def place(
    BLOCK_ROWS, WIDTH_UNITS, L: tl.constexpr, R: tl.constexpr, CB: tl.constexpr, VEC: tl.constexpr, UNIT: tl.constexpr
):
    """Where this program works: plane, width, first block row and pixel column, number of its tile in the plane.

    A tile is R block rows of CB threads. The width comes as WIDTH_UNITS * UNIT, so that the compiler knows a divisor
    of the row stride even where the width is not a multiple of 16, the only divisor it looks for in an integer.
    """
    S: tl.constexpr = 2**L
    TILE: tl.constexpr = CB * (S if VEC < S else VEC)
    width = WIDTH_UNITS * UNIT
    across = tl.cdiv(width, TILE)
    tiles = across * tl.cdiv(BLOCK_ROWS, R)
    plane = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    return plane, width, (tile // across) * R, (tile % across) * TILE, tile


@triton.jit
def pixels(
    plane, width, row, column, BLOCK_ROWS, L: tl.constexpr, R: tl.constexpr, CB: tl.constexpr, VEC: tl.constexpr
):
    """Offsets and mask of the first row and chunk of each thread's block."""
    S: tl.constexpr = 2**L
    STEP: tl.constexpr = S if VEC < S else VEC
    lane = tl.arange(0, CB * VEC)
    rows = row + tl.arange(0, R)
    columns = column + (lane // VEC) * STEP + lane % VEC
    offsets = plane.to(tl.int64) * (BLOCK_ROWS * S) * width + (rows * S)[:, None] * width + columns[None, :]
    return offsets, (rows < BLOCK_ROWS)[:, None] & (columns < width)[None, :]


@triton.jit
def cells(plane, width, row, column, rows_of_plane, R: tl.constexpr, N: tl.constexpr, SIDE: tl.constexpr, STRIDE):
    """Offsets and mask of [R, N] values, one for each SIDE x SIDE pixels, in rows row, row + STRIDE, ... of them."""
    rows = row + tl.arange(0, R) * STRIDE
    columns = column // SIDE + tl.arange(0, N)
    columns_of_plane = width // SIDE
    offsets = (
        plane.to(tl.int64) * rows_of_plane * columns_of_plane + rows[:, None] * columns_of_plane + columns[None, :]
    )
    return offsets, (rows < rows_of_plane)[:, None] & (columns < columns_of_plane)[None, :]


@triton.jit
def haar_l1_forward(
    input_ptr,
    target_ptr,
    codes_ptr,
    low_ptr,
    partial_ptr,
    BLOCK_ROWS,
    WIDTH_UNITS,
    partial_stride,
    lh1,
    hl1,
    hh1,
    lh2,
    hl2,
    hh2,
    lh3,
    hl3,
    hh3,
    ll,
    L: tl.constexpr,
    LAST: tl.constexpr,
    DIFFER: tl.constexpr,
    R: tl.constexpr,
    CB: tl.constexpr,
    VEC: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Reads input and target [planes, H, W], writes codes and one partial sum of the loss for each program.

    DIFFER: subtract target (a uint8 one times 1/255); otherwise input is LL of an earlier launch. LAST: LL counts in
    the loss; otherwise it is written to low [planes, H/8, W/8], for the next launch. partial is [planes,
    partial_stride]. BLOCK_ROWS is H / 2**L; VEC >= 4 if L > 1, VEC >= 2 if L = 1.
    """
    S: tl.constexpr = 2**L
    CHUNKS: tl.constexpr = S // VEC if VEC < S else 1
    N: tl.constexpr = CB if VEC < S else CB * (VEC // S)
    plane, width, row, column, tile = place(BLOCK_ROWS, WIDTH_UNITS, L, R, CB, VEC, UNIT)
    offsets, mask = pixels(plane, width, row, column, BLOCK_ROWS, L, R, CB, VEC)
    x = ()
    for i in tl.static_range(S):
        for j in tl.static_range(CHUNKS):
            d = tl.load(input_ptr + offsets + (i * width + j * VEC), mask=mask, other=0).to(tl.float32)
            if DIFFER:
                t = tl.load(target_ptr + offsets + (i * width + j * VEC), mask=mask, other=0)
                if target_ptr.dtype.element_ty == tl.uint8:
                    d -= t.to(tl.float32) * (1 / 255)
                else:
                    d -= t.to(tl.float32)
            x = x + (d,)

    x, codes1, sum_lh, sum_hl, sum_hh = analyse(x, S, CHUNKS, True, R, N)
    loss = lh1 * sum_lh + hl1 * sum_hl + hh1 * sum_hh
    if L == 1:
        codes = codes1[0]
        if LAST:
            codes |= code(x[0]) << 6
        where, inside = cells(plane, width, row, column, BLOCK_ROWS, R, N, 2, 1)
        tl.store(codes_ptr + where, codes.to(tl.uint8), mask=inside)
    else:
        x, codes2, sum_lh, sum_hl, sum_hh = analyse(x, S // 2, CHUNKS, True, R, N)
        loss += lh2 * sum_lh + hl2 * sum_hl + hh2 * sum_hh
        if L == 2:
            codes = word(codes1[0], codes1[1], codes2[0])
            if LAST:
                codes |= code(x[0]) << 30
            where, inside = cells(plane, width, row, column, BLOCK_ROWS, R, N, 4, 1)
            tl.store(codes_ptr + where, codes, mask=inside)
        else:
            if CHUNKS == 1:
                upper = word(codes1[0], codes1[1], codes2[0])
                lower = word(codes1[2], codes1[3], codes2[1])
                low, c_lh, c_hl, c_hh = butterfly_rows(x[0], x[1])
            else:
                upper = join_pairs(word(codes1[0], codes1[2], codes2[0]), word(codes1[1], codes1[3], codes2[1]))
                lower = join_pairs(word(codes1[4], codes1[6], codes2[2]), word(codes1[5], codes1[7], codes2[3]))
                low, c_lh, c_hl, c_hh = butterfly(x[0], x[1], x[2], x[3])
            loss += lh3 * tl.abs(c_lh) + hl3 * tl.abs(c_hl) + hh3 * tl.abs(c_hh)
            upper |= join_pairs(code(c_lh), code(c_hl)) << 30
            if LAST:
                lower |= join_pairs(code(c_hh), code(low)) << 30
            else:
                lower |= join_pairs(code(c_hh), tl.zeros((R, N), tl.int32)) << 30
            x = (low,)
            where, inside = cells(plane, width, row * 2, column, BLOCK_ROWS * 2, R, N * 2, 4, 2)
            tl.store(codes_ptr + where, upper, mask=inside)
            tl.store(codes_ptr + where + width // 4, lower, mask=inside)
    if LAST:
        loss += ll * tl.abs(x[0])
    else:
        where, inside = cells(plane, width, row, column, BLOCK_ROWS, R, N, S, 1)
        tl.store(low_ptr + where, x[0], mask=inside)
    tl.store(partial_ptr + plane.to(tl.int64) * partial_stride + tile, tl.sum(loss))


@triton.jit
def haar_l1_backward(
    codes_ptr,
    low_ptr,
    upstream_ptr,
    gradient_ptr,
    BLOCK_ROWS,
    WIDTH_UNITS,
    channels,
    upstream_stride,
    lh1,
    hl1,
    hh1,
    lh2,
    hl2,
    hh2,
    lh3,
    hl3,
    hh3,
    ll,
    L: tl.constexpr,
    LAST: tl.constexpr,
    R: tl.constexpr,
    CB: tl.constexpr,
    VEC: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Reads the codes of the forward kernel, writes the gradient [planes, H, W].

    The upstream gradient of image i is at upstream + i * upstream_stride, on the device: nothing waits for it. Unless
    LAST, the gradient of LL is read from low, where the launch of the coarser levels has put it.
    """
    S: tl.constexpr = 2**L
    CHUNKS: tl.constexpr = S // VEC if VEC < S else 1
    N: tl.constexpr = CB if VEC < S else CB * (VEC // S)
    plane, width, row, column, tile = place(BLOCK_ROWS, WIDTH_UNITS, L, R, CB, VEC, UNIT)
    upstream = tl.load(upstream_ptr + (plane // channels) * upstream_stride).to(tl.float32)
    lh1, hl1, hh1, ll = lh1 * upstream, hl1 * upstream, hh1 * upstream, ll * upstream
    if LAST:
        low = tl.zeros((R, N), tl.float32)
    else:
        where, inside = cells(plane, width, row, column, BLOCK_ROWS, R, N, S, 1)
        low = tl.load(low_ptr + where, mask=inside, other=0)
    y = ()
    if L == 1:
        where, inside = cells(plane, width, row, column, BLOCK_ROWS, R, N, 2, 1)
        q = tl.load(codes_ptr + where, mask=inside, other=0).to(tl.int32)
        if LAST:
            low = signed(q, 6, ll)
        y = inverse_rows(low, signed(q, 0, lh1), signed(q, 2, hl1), signed(q, 4, hh1))
    else:
        lh2, hl2, hh2 = lh2 * upstream, hl2 * upstream, hh2 * upstream
        if L == 2:
            where, inside = cells(plane, width, row, column, BLOCK_ROWS, R, N, 4, 1)
            words = (tl.load(codes_ptr + where, mask=inside, other=0),)
            if LAST:
                low = signed(words[0], 30, ll)
            lows = (low,)
        else:
            where, inside = cells(plane, width, row * 2, column, BLOCK_ROWS * 2, R, N * 2, 4, 2)
            upper = tl.load(codes_ptr + where, mask=inside, other=0)
            lower = tl.load(codes_ptr + where + width // 4, mask=inside, other=0)
            upper_left, upper_right = split_pairs(upper)
            lower_left, lower_right = split_pairs(lower)
            if LAST:
                low = signed(lower_right, 30, ll)
            c_lh = signed(upper_left, 30, lh3 * upstream)
            c_hl = signed(upper_right, 30, hl3 * upstream)
            c_hh = signed(lower_left, 30, hh3 * upstream)
            if CHUNKS == 1:
                words = (upper, lower)
                lows = inverse_rows(low, c_lh, c_hl, c_hh)
            else:
                words = (upper_left, upper_right, lower_left, lower_right)
                lows = inverse(low, c_lh, c_hl, c_hh)
        for i in tl.static_range(S // 4):
            rows0 = ()
            rows1 = ()
            rows2 = ()
            rows3 = ()
            for j in tl.static_range(CHUNKS):
                q = words[i * CHUNKS + j]
                low_upper, low_lower = inverse_rows(
                    lows[i * CHUNKS + j], signed(q, 24, lh2), signed(q, 26, hl2), signed(q, 28, hh2)
                )
                p = join_pairs(q, q >> 6)
                r0, r1 = inverse_rows(low_upper, signed(p, 0, lh1), signed(p, 2, hl1), signed(p, 4, hh1))
                p = join_pairs(q >> 12, q >> 18)
                r2, r3 = inverse_rows(low_lower, signed(p, 0, lh1), signed(p, 2, hl1), signed(p, 4, hh1))
                rows0 = rows0 + (r0,)
                rows1 = rows1 + (r1,)
                rows2 = rows2 + (r2,)
                rows3 = rows3 + (r3,)
            y = y + rows0 + rows1 + rows2 + rows3
    offsets, mask = pixels(plane, width, row, column, BLOCK_ROWS, L, R, CB, VEC)
    for i in tl.static_range(S):
        for j in tl.static_range(CHUNKS):
            value = y[i * CHUNKS + j].to(gradient_ptr.dtype.element_ty)
            tl.store(gradient_ptr + offsets + (i * width + j * VEC), value, mask=mask)
