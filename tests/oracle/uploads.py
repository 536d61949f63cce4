"""From the clients' uploads to one upload, in NumPy and float64, one client at a time.

The file imports nothing but NumPy. An upload is a flat dict {"views": [I, G, d], "head/...": ...}.
Each function follows the published definition; `test_reference.py` has numbers by hand.
"""

import numpy as np

# --- On a client ----------------------------------------------------------------------------------


def norm(upload):
    return np.sqrt(sum(np.sum(leaf**2) for leaf in upload.values()))


def clip(upload, bound):
    """Scales an upload to a joint L2 norm of at most `bound`: (upload, was it clipped)."""
    length = norm(upload)
    if bound == 0 or length <= bound:
        return upload, False
    return {name: leaf * bound / length for name, leaf in upload.items()}, True


def longest_rows(views, count):
    """The `count` items with the longest rows; the other rows are 0."""
    kept = np.argsort([-np.sum(row**2) for row in views])[:count]
    return np.array([row if item in kept else 0 * row for item, row in enumerate(views)])


def quantised(views, bits, uniform):
    """QSGD: each row is its largest size times a whole number of s = 2^(bits - 1) - 1 levels.

    A size between two levels becomes the upper one with the probability of its distance from the
    lower one, by a uniform draw.
    """
    levels, result = 2 ** (bits - 1) - 1, np.zeros_like(views)
    for item, row in enumerate(views):
        largest = np.abs(row).max()
        if largest > 0:
            lower = np.floor(np.abs(row) / largest * levels)
            rest = np.abs(row) / largest * levels - lower
            level = lower + (uniform[item] >= 1 - rest)
            result[item] = np.sign(row) * level * largest / levels
    return result


def projected(views, basis):
    """CoLR: the client sends F B; the server multiplies by the transposed basis."""
    sent = views.reshape(len(views), -1) @ basis
    return (sent @ basis.T).reshape(views.shape)


def sent_upload(options, upload, own, client, bound, basis):
    """(what one client sends, its private rows after that, was the upload clipped)."""
    upload, was_clipped = clip(upload, bound)
    views = upload["views"]
    if options.upload_rows:
        whole = views + own["residual"]
        views = longest_rows(whole, options.upload_rows)
    if options.upload_bits:
        views = quantised(views, options.upload_bits, client.uniform)
    if options.upload_rows:
        own = own | {"residual": whole - views}
    if options.upload_rank:
        views = projected(views, basis)
    return upload | {"views": views}, own, was_clipped


# --- The rules: (options, uploads of the clients that respond, weights) -> one upload -------------


def weighted_sum(uploads, weights):
    pairs = list(zip(uploads, weights, strict=True))
    return {name: sum(weight * upload[name] for upload, weight in pairs) for name in uploads[0]}


def mean(options, uploads, weights):
    return weighted_sum(uploads, np.array(weights) / np.sum(weights))


def fixed_mean(options, uploads, weights):
    return weighted_sum(uploads, np.ones(len(uploads)) / options.expected)


def each_coordinate(uploads, combine):
    """`combine` maps the values of one coordinate, one a client, to one value."""
    return {
        name: np.apply_along_axis(combine, 0, np.stack([upload[name] for upload in uploads]))
        for name in uploads[0]
    }


def median(options, uploads, weights):
    return each_coordinate(uploads, np.median)


def trimmed_mean(options, uploads, weights):
    cut = int(options.byzantine_share * len(uploads))
    return each_coordinate(uploads, lambda x: np.sort(x)[cut : len(x) - cut].mean())


def distance(a, b):
    return norm({name: a[name] - b[name] for name in a})


def krum_order(options, uploads):
    """(the clients by their Krum scores, lowest first, the number f of hostile ones).

    A score is the sum of the squared distances to the n - f - 2 nearest other uploads.
    """
    count = len(uploads)
    hostile = int(options.byzantine_share * count)
    scores = []
    for i, own in enumerate(uploads):
        others = sorted(distance(own, other) ** 2 for j, other in enumerate(uploads) if j != i)
        scores.append(sum(others[: max(count - hostile - 2, 1)]))
    return np.argsort(scores), hostile


def krum(options, uploads, weights):
    order, _ = krum_order(options, uploads)
    return uploads[order[0]]


def multi_krum(options, uploads, weights):
    order, hostile = krum_order(options, uploads)
    chosen = [uploads[i] for i in order[: len(uploads) - hostile]]
    return weighted_sum(chosen, np.ones(len(chosen)) / len(chosen))


def bulyan(options, uploads, weights):
    """Krum selects n - 2 f uploads; of each coordinate the n - 4 f nearest to the median."""
    order, hostile = krum_order(options, uploads)
    chosen = [uploads[i] for i in order[: max(len(uploads) - 2 * hostile, 1)]]
    count = max(len(chosen) - 2 * hostile, 1)

    def near_median(values):
        return values[np.argsort(np.abs(values - np.median(values)))[:count]].mean()

    return each_coordinate(chosen, near_median)


def geometric_median(options, uploads, weights):
    """RFA: ten steps of Weiszfeld from the weighted mean, with distances bounded from below."""
    least = 1e-6 * max(norm(upload) for upload in uploads)
    centre = mean(options, uploads, weights)
    for _ in range(10):
        distances = [max(distance(upload, centre), least) for upload in uploads]
        centre = mean(options, uploads, np.array(weights) / distances)
    return centre


def norm_bound(options, uploads, weights):
    bound = np.median([norm(upload) for upload in uploads])
    return mean(options, [clip(upload, bound)[0] for upload in uploads], weights)


def row_median(options, uploads, weights):
    """For each row the median over the clients that touched it, clipped to their median length,
    times the share of clients that touched it; 0 for too few.

    A leaf of the head is one row, which all clients touch. FedNCF has two leaves where this
    reference has one: its first layer reads user and item, its last one GMF and MLP.
    """
    count = len(uploads)
    fewest = max(2 * int(options.byzantine_share * count) + 1, 3)

    def of_row(rows, touched):
        nothing = np.zeros_like(rows[0])
        rows = [row for row, here in zip(rows, touched, strict=True) if here]
        if len(rows) < fewest:
            return nothing
        bound = np.median([norm({"row": row}) for row in rows])
        short = [clip({"row": row}, bound)[0]["row"] for row in rows]
        return np.median(short, axis=0) * len(rows) / count

    def of_leaf(leaves):
        return of_row(leaves, [True] * count)

    width = uploads[0]["views"].shape[-1]
    parts = {"head/mlp/0/kernel": [width], "head/out/kernel": [width]}
    combined = {}
    for name in uploads[0]:
        leaves = [upload[name] for upload in uploads]
        if name == "views":
            touched = [[np.any(row) for row in rows] for rows in zip(*leaves, strict=True)]
            rows = map(of_row, zip(*leaves, strict=True), touched)
            combined[name] = np.array(list(rows))
        else:
            halves = [np.split(leaf, parts.get(name, 1)) for leaf in leaves]
            combined[name] = np.concatenate([of_leaf(part) for part in zip(*halves, strict=True)])
    return combined


def secure(options, uploads, weights):
    """The mean of the uploads in whole levels; see `in_levels`."""
    bound, levels = ring(options)
    total = {name: sum(upload[name] for upload in uploads) for name in uploads[0]}
    return {name: leaf * bound / levels / len(uploads) for name, leaf in total.items()}


RULES = {
    "float32": mean,
    "int32": mean,
    "fixed_mean": fixed_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "geometric_median": geometric_median,
    "norm_bound": norm_bound,
    "row_median": row_median,
    "secure": secure,
}


def ring(options):
    """The bound on a coordinate, and the whole number that stands for it."""
    return options.secure_bound or options.clip_norm, options.secure_levels // 2


def in_levels(options, upload, noise):
    """(the whole numbers that a client adds to a secure sum, was a coordinate clamped).

    A coordinate is clamped to the bound and rounded toward 0; then its discrete noise is added.
    """
    bound, levels = ring(options)
    clamped = any(np.any(np.abs(leaf) > bound) for leaf in upload.values())
    whole = lambda leaf: np.trunc(np.clip(leaf, -bound, bound) / bound * levels)
    return {name: whole(leaf) + noise.get(name, 0) for name, leaf in upload.items()}, clamped


def noise_deviation(options, weights, bound):
    """Of the noise in the combined upload.

    client: each client adds noise of the multiplier times the bound to its upload, and the rule
    sums with `weights`. central: the bound over the expected number of clients is the most that
    one client can change the sum.
    """
    if options.noise == "central":
        return options.noise_multiplier * bound / options.expected
    if options.aggregation == "fixed_mean":
        weights = np.ones(len(weights)) / options.expected
    else:
        weights = np.array(weights) / np.sum(weights)
    return options.noise_multiplier * bound * np.sqrt(np.sum(weights**2))


def combined(options, uploads, weights, bound, draws):
    """The upload that the server uses: by the rule, with noise.

    draws: standard normal numbers in the shapes of an upload, and the basis of the low rank.
    """
    upload = RULES[options.aggregation](options, uploads, weights)
    if not options.noise_multiplier or options.privacy == "distributed":
        return upload
    deviation = noise_deviation(options, weights, bound)
    noise = {name: deviation * draws.normal[name] for name in upload}
    if options.upload_rank:
        noise["views"] = projected(noise["views"], draws.basis)
    return {name: leaf + noise[name] for name, leaf in upload.items()}


def next_bound(options, bound, clipped):
    """Andrew et al. 2021: the bound follows a quantile of the norms of those that respond."""
    within = 1 - np.mean(clipped)
    return bound * np.exp(-0.2 * (within - options.clip_quantile))
