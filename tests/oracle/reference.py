"""The method in NumPy and float64, one client at a time, as the documents define it.

The file imports nothing from the package, JAX, Flax or Optax, and shares no code with the package:
the tests compare the package with it. Speed does not matter. Parameters are flat dicts
`{name: array}`. `Variable` computes the gradient of a client's loss by reverse-mode
differentiation; `test_reference.py` compares it with central differences. `uploads.py` has the
steps between the uploads and the server's step.
"""

import dataclasses
import itertools

import numpy as np

from tests.oracle import uploads

# --- Reverse-mode differentiation -----------------------------------------------------------------


class Variable:
    """A value, with the variables that it depends on and their pull-backs."""

    __array_ufunc__ = None  # array + Variable calls Variable.__radd__

    def __init__(self, value, parents=()):
        self.value = np.asarray(value, dtype=np.float64)
        self.parents = parents
        self.gradient = np.zeros_like(self.value)

    def backward(self):
        """Accumulates d self / d variable in every variable that `self` depends on."""
        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for parent, _ in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        self.gradient = np.ones_like(self.value)
        for node in reversed(order):
            for parent, pull_back in node.parents:
                parent.gradient = parent.gradient + pull_back(node.gradient)

    def __add__(self, other):
        other = constant(other)
        return Variable(
            self.value + other.value,
            ((self, _like(self)), (other, _like(other))),
        )

    def __mul__(self, other):
        other = constant(other)
        return Variable(
            self.value * other.value,
            (
                (self, lambda g: _like(self)(g * other.value)),
                (other, lambda g: _like(other)(g * self.value)),
            ),
        )

    def __matmul__(self, other):
        """[n, a] @ [a, b]: two matrices."""
        other = constant(other)
        return Variable(
            self.value @ other.value,
            ((self, lambda g: g @ other.value.T), (other, lambda g: self.value.T @ g)),
        )

    def __getitem__(self, index):
        def pull_back(g):
            whole = np.zeros_like(self.value)
            np.add.at(whole, index, g)
            return whole

        return Variable(self.value[index], ((self, pull_back),))

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + constant(other) * -1.0

    def __rsub__(self, other):
        return constant(other) - self

    def __truediv__(self, other):
        return self * power(constant(other), -1.0)

    __radd__ = __add__
    __rmul__ = __mul__


def constant(value):
    return value if isinstance(value, Variable) else Variable(value)


def _like(node):
    """Sums a gradient over the axes along which NumPy broadcast the value of `node`."""

    def pull_back(gradient):
        while gradient.ndim > node.value.ndim:
            gradient = gradient.sum(0)
        for axis, size in enumerate(node.value.shape):
            if size == 1:
                gradient = gradient.sum(axis, keepdims=True)
        return gradient

    return pull_back


def _elementwise(x, value, derivative):
    return Variable(value, ((x, lambda g: g * derivative),))


def power(x, exponent):
    return _elementwise(x, x.value**exponent, exponent * x.value ** (exponent - 1))


def exp(x):
    return _elementwise(x, np.exp(x.value), np.exp(x.value))


def log(x):
    return _elementwise(x, np.log(x.value), 1 / x.value)


def relu(x):
    return _elementwise(x, np.maximum(x.value, 0), (x.value > 0).astype(float))


def absolute(x):
    return _elementwise(x, np.abs(x.value), np.sign(x.value))


def sigmoid(x):
    value = 1 / (1 + np.exp(-x.value))
    return _elementwise(x, value, value * (1 - value))


def softplus(x):
    """log(1 + exp(x))"""
    return _elementwise(x, np.logaddexp(0, x.value), 1 / (1 + np.exp(-x.value)))


def total(x, axis=None):
    """The sum over one axis, or over all."""
    if axis is None:
        return Variable(x.value.sum(), ((x, lambda g: np.full(x.value.shape, g)),))

    def pull_back(g):
        return np.broadcast_to(np.expand_dims(g, axis), x.value.shape)

    return Variable(x.value.sum(axis), ((x, pull_back),))


def reshape(x, *shape):
    return Variable(x.value.reshape(shape), ((x, lambda g: g.reshape(x.value.shape)),))


def join(parts, axis=-1):
    """Concatenates along an axis."""
    ends = np.cumsum([part.value.shape[axis] for part in parts])

    def piece(i):
        return lambda g: np.split(g, ends[:-1], axis)[i]

    value = np.concatenate([part.value for part in parts], axis)
    return Variable(value, tuple((part, piece(i)) for i, part in enumerate(parts)))


def stack(parts, axis):
    return join(
        [reshape(part, *np.expand_dims(part.value, axis).shape) for part in parts],
        axis,
    )


def softmax(x):
    """Along the last axis."""
    e = exp(x - x.value.max(-1, keepdims=True))
    return e / reshape(total(e, -1), *x.value.shape[:-1], 1)


# --- The server's operators: from table and features to views [I, G, d] ---------------------------


def linear(p, name, x):
    """x W + b"""
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def layer_norm(p, name, x):
    """(x - mean) / sqrt(variance + 1e-6) * scale + bias, along the last axis."""
    width = x.value.shape[-1]
    centred = x - reshape(total(x, -1), *x.value.shape[:-1], 1) / width
    variance = reshape(total(centred * centred, -1), *x.value.shape[:-1], 1) / width
    return centred * power(variance + 1e-6, -0.5) * p[f"{name}/scale"] + p[f"{name}/bias"]


def tokens(p, table, features):
    """All inputs mapped to width d: first the ID, then the modalities in alphabetical order."""
    inputs = {"id": table} | {name: constant(features[name]) for name in sorted(features)}
    return {
        name: layer_norm(p, f"norm/{name}", linear(p, f"map/{name}", x))
        for name, x in inputs.items()
    }


def operator_sum(p, x):
    """x_D + x_C + x_V"""
    return total(stack(list(x.values()), 0), 0)


def operator_mixture(p, x):
    """The mean of the tokens with one learned softmax weight for each, shared by all clients."""
    weight = softmax(p["mixture/logits"])
    return total(stack(list(x.values()), 0) * reshape(weight, len(x), 1, 1), 0)


def operator_mlp(p, x):
    """LN(W2 relu(W1 [x_D; x_C; x_V]))"""
    hidden = relu(linear(p, "mlp/1", join(list(x.values()))))
    return layer_norm(p, "mlp/norm", linear(p, "mlp/2", hidden))


def operator_gate(p, x):
    """LN(W [s(G_D x_D) * x_D; s(G_C x_C) * x_C; s(G_V x_V) * x_V])"""
    gated = [sigmoid(linear(p, f"gate/{name}", token)) * token for name, token in x.items()]
    return layer_norm(p, "gate/norm", linear(p, "gate/out", join(gated)))


def attend(p, name, queries, tokens_asked):
    """softmax(Q K^T / sqrt d) V for each query [I, d], over the key tokens of the same item."""
    keys = [linear(p, f"{name}/key", token) for token in tokens_asked]
    values = stack([linear(p, f"{name}/value", token) for token in tokens_asked], 1)
    answers = []
    for token in queries:
        query = linear(p, f"{name}/query", token)
        logits = stack([total(query * key, -1) / np.sqrt(query.value.shape[1]) for key in keys], 1)
        weight = softmax(logits)
        answers.append(total(reshape(weight, *weight.value.shape, 1) * values, 1))
    return answers


def operator_attention(p, x):
    """Self-attention over an item's tokens, averaged, then LN."""
    answers = attend(p, "attention", list(x.values()), list(x.values()))
    return layer_norm(p, "attention/norm", total(stack(answers, 0), 0) / len(answers))


def operator_cross_attention(p, x):
    """The ID token attends to the modality tokens: LN(x_D + softmax(Q K^T / sqrt d) V)."""
    modalities = [token for name, token in x.items() if name != "id"] or [x["id"]]
    (answer,) = attend(p, "cross_attention", [x["id"]], modalities)
    return layer_norm(p, "cross_attention/norm", x["id"] + answer)


OPERATORS = {
    "sum": operator_sum,
    "mixture": operator_mixture,
    "mlp": operator_mlp,
    "gate": operator_gate,
    "attention": operator_attention,
    "cross_attention": operator_cross_attention,
}


def views(options, p, features):
    """The views that the server broadcasts: [I, G, d]."""
    table = p["table"]
    if options.fusion == "none":
        return stack([table], 1)
    if options.fusion == "vbpr" and not features:
        return stack([table], 1)
    if options.fusion == "vbpr":
        content = np.concatenate([features[name] for name in sorted(features)], 1)
        return stack([table + constant(content) @ p["projection/kernel"]], 1)
    x = tokens(p, table, features)
    names = ("mlp",) if options.fusion == "mlp" else options.views
    result = []
    for name in names:
        if name == "table":
            result.append(table)
        elif name in x:
            result.append(x[name])
        else:
            result.append(OPERATORS[name](p, x))
    return stack(result, 1)


# --- The client: router, score, loss --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run; names and meanings are those of the flags."""

    backbone: str = "fcf"
    fusion: str = "bilevel"
    views: tuple = ("id",)
    loss: str = "bce"
    negatives: str = "expected"
    num_negatives: int = 4
    upload: str = "gradient"
    recency: float = 0.0
    history_weight: float = 0.0
    fedrap_repulsion: float = 0.01
    fedrap_l1: float = 0.01
    client_lr: float = 3.0
    router_lr: float = 0.003
    item_lr: float = 1.0
    delta_lr: float = 1.0
    client_decay: float = 0.02
    cohort: int = 0
    client_dropout: float = 0.0
    clip_norm: float = 0.0
    clip_quantile: float = 0.0
    noise_multiplier: float = 0.0
    noise: str = "client"
    privacy: str = "none"
    upload_bits: int = 0
    upload_rows: int = 0
    upload_rank: int = 0
    aggregation: str = "float32"
    byzantine_share: float = 0.1
    secure_bound: float = 0.0
    secure_levels: int = 0
    num_clients: int = 0
    server_optimizer: str = "adam"
    server_lr_items: float = 0.05
    server_lr_fusion: float = 0.003
    server_lr_head: float = 0.01
    server_decay: float = 10.0

    @property
    def expected(self):
        """The expected number of responses in a round."""
        return (self.cohort or self.num_clients) * (1 - self.client_dropout)


@dataclasses.dataclass(frozen=True)
class Client:
    """One client, with the random draws of its round.

    history: its train items. time: the time stamp of each. pool: the candidates for negatives.
    epochs: its number of local epochs; 0 if it was not sampled or did not respond.
    negatives: for sampled negatives, the items of each epoch, num_negatives for each positive.
    uniform: for upload_bits, a draw from [0, 1) for each number of the views.
    levels: for privacy=distributed, its discrete noise {name: whole numbers}.
    """

    history: np.ndarray
    time: np.ndarray
    pool: np.ndarray
    epochs: int
    negatives: tuple = ()
    uniform: np.ndarray | None = None
    levels: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Draws:
    """The server's draws of one round.

    normal: standard normal numbers in the shapes of an upload. basis: [G * d, upload_rank], with
    orthonormal columns.
    """

    normal: dict = dataclasses.field(default_factory=dict)
    basis: np.ndarray | None = None


def recency_weights(time, recency):
    """The weight (1 + a)^-recency of an item with a newer items, scaled to mean 1.

    Items of equal time get the mean of their values of a.
    """
    newer = [np.sum(time > own) + (np.sum(time == own) - 1) / 2 for own in time]
    weight = (1.0 + np.array(newer)) ** -recency
    return weight / weight.mean()


def router_weights(private, rows, weight):
    """softmax(W2 relu(W1 pool + b1) + b2); pool: the mean of the history's views [P, G, d]."""
    length, count, width = rows.value.shape
    pooled = total(rows * weight[:, None, None], 0) / length
    hidden = relu(linear(private, "router/1", reshape(pooled, 1, count * width)))
    return reshape(softmax(linear(private, "router/2", hidden)), count)


def item_vectors(options, private, catalogue, client):
    """The fused vector of every item [I, d] and the weights of the views [G]."""
    count = catalogue.value.shape[1]
    if options.fusion == "bilevel":
        weight = recency_weights(client.time, options.recency)
        mixture = router_weights(private, catalogue[client.history], weight)
    else:
        mixture = constant(np.ones(1))
    return total(catalogue * reshape(mixture, count, 1), 1), mixture


def head_score(options, private, head, vectors):
    """The backbone's score of item vectors [n, d]: [n]."""
    n, width = vectors.value.shape
    if options.backbone == "fcf":
        return total(vectors * private["user"], 1) + private["bias"]
    if options.backbone in ("pfedrec", "fedrap"):
        return total(vectors * private["weight"], 1) + private["bias"]
    if options.backbone == "fedavg":
        return total(vectors * head["weight"], 1) + head["bias"]
    in_mlp = reshape(private["user_mlp"], 1, width) * np.ones((n, 1))
    hidden = join([in_mlp, vectors])
    for layer in range(3):  # [2d, d, d/2, d/4]
        hidden = relu(linear(head, f"mlp/{layer}", hidden))
    joined = join([private["user_gmf"] * vectors, hidden])
    return reshape(linear(head, "out", joined), n)


def scores(options, private, head, catalogue, client, leave_out=True):
    """Scores of all items [I].

    leave_out: whether an item of the history is left out of its own history term; nothing else
    than training looks at those items.
    """
    vectors, _ = item_vectors(options, private, catalogue, client)
    own = vectors
    if options.backbone in ("pfedrec", "fedrap"):
        own = vectors + private["rows"]
    score = head_score(options, private, head, own)
    if options.history_weight == 0:
        return score
    items, width = vectors.value.shape
    length = len(client.history)
    counts = np.zeros(items)
    counts[client.history] = recency_weights(client.time, options.recency)
    weighted = vectors * counts[:, None]
    summed = reshape(total(weighted, 0), 1, width)
    others = (summed - weighted if leave_out else summed * np.ones((items, 1))) / length
    return score + options.history_weight * total(vectors * others, -1)


def row_counts(options, client, epoch, items):
    """The weight of each item as a positive and as a negative: two vectors [I]."""
    positive = np.zeros(items)
    positive[client.history] = recency_weights(client.time, options.recency)
    negative = np.zeros(items)
    if options.negatives == "sampled":
        np.add.at(negative, client.negatives[epoch], 1.0)
    else:
        free = np.setdiff1d(client.pool, client.history)
        if len(free):
            negative[free] = options.num_negatives * len(client.history) / len(free)
    return positive, negative


def data_loss(options, score, positive, negative, client):
    """The mean over the rows: the positives and num_negatives for each of them.

    softmax: the pool's part of the denominator is estimated from the negatives, each of which
    stands for equally many items; with expected negatives it is exact.
    """
    rows = positive.sum() + negative.sum()
    if options.loss == "bce":
        return total(softplus(-score) * positive + softplus(score) * negative) / rows
    free = len(np.setdiff1d(client.pool, client.history))
    stands_for = free / negative.sum() if free else 0.0
    candidates = (positive > 0) + negative * stands_for
    log_total = log(total(exp(score) * candidates))
    return total((log_total - score) * positive) / rows


def penalty(options, private, catalogue, vectors, mixture, t):
    """FedRAP's penalty of each row [I]: - a_t mean (P - C)^2 + b_t mean |C|.

    a_t and b_t are annealed by tanh(t / 10) over the finished rounds t; C is the fused vector,
    and its size is counted view by view: sum_g w_g mean |F_g|.
    """
    _, count, width = catalogue.value.shape
    gap = private["rows"] - vectors
    apart = total(gap * gap, 1) / width
    sizes = total(absolute(catalogue), 2) / width
    sparse = total(sizes * reshape(mixture, 1, count), 1)
    return np.tanh(t / 10) * (options.fedrap_l1 * sparse - options.fedrap_repulsion * apart)


def client_loss(options, private, head, catalogue, client, epoch, t):
    """The loss of one local epoch: one number."""
    items = catalogue.value.shape[0]
    score = scores(options, private, head, catalogue, client)
    positive, negative = row_counts(options, client, epoch, items)
    loss = data_loss(options, score, positive, negative, client)
    if options.backbone == "fedrap":
        vectors, mixture = item_vectors(options, private, catalogue, client)
        of_rows = penalty(options, private, catalogue, vectors, mixture, t)
        weight = positive + negative
        loss = loss + total(of_rows * weight) / weight.sum()
    return loss


# --- A client's local epochs ----------------------------------------------------------------------


def client_step(options, name, value, gradient):
    """SGD with the step of the leaf's kind; only the head has weight decay."""
    if name.startswith("router/"):
        return value - options.router_lr * gradient
    if name == "rows":
        return value - options.item_lr * gradient
    return value - options.client_lr * (gradient + options.client_decay * value)


def train_client(options, private, head, catalogue, client, t):
    """One client's round: (new private, upload, loss of every epoch).

    private, head: {name: array}; catalogue: the views [I, G, d]. The upload is
    {"views": [I, G, d], "head/...": ...}.
    """
    private = dict(private)
    residual = {name: private.pop(name) for name in ("residual",) if name in private}
    if options.backbone == "pfedrec":
        private["rows"] = np.zeros_like(private["rows"])
    own_views, own_head = catalogue, dict(head)
    summed = {"views": np.zeros_like(catalogue)} | {f"head/{k}": 0.0 * v for k, v in head.items()}
    losses = []
    for epoch in range(client.epochs):
        variables = {name: Variable(value) for name, value in private.items()}
        head_variables = {name: Variable(value) for name, value in own_head.items()}
        view_variable = Variable(own_views)
        loss = client_loss(options, variables, head_variables, view_variable, client, epoch, t)
        loss.backward()
        losses.append(float(loss.value))
        private = {
            name: client_step(options, name, value, variables[name].gradient)
            for name, value in private.items()
        }
        summed["views"] = summed["views"] + view_variable.gradient
        for name in head:
            summed[f"head/{name}"] = summed[f"head/{name}"] + head_variables[name].gradient
        if options.upload == "delta":
            own_views = own_views - options.delta_lr * view_variable.gradient
            own_head = {
                name: value - options.delta_lr * head_variables[name].gradient
                for name, value in own_head.items()
            }
    if options.upload == "gradient":
        return private | residual, summed, losses
    upload = {"views": catalogue - own_views}
    return private | residual, upload | {f"head/{k}": head[k] - own_head[k] for k in head}, losses


# --- From uploads to the server's step ------------------------------------------------------------


def aggregation_weights(options, clients):
    """Weights over the clients that respond, with sum 1: equal, or proportional to the history."""
    answers = np.array([client.epochs > 0 for client in clients], dtype=float)
    if options.backbone in ("fedavg", "fedncf"):
        answers = answers * [len(client.history) for client in clients]
    return answers / answers.sum()


def shared_gradient(options, shared, features, mean_upload):
    """ONE pull-back of the mean gradient of the views through the operators."""
    p = {name: Variable(value) for name, value in shared.items()}
    total(views(options, p, features) * mean_upload["views"]).backward()
    return {
        name: mean_upload[name] if name.startswith("head/") else p[name].gradient for name in shared
    }


def optimizer_start(options, shared):
    """Step number and moments of every leaf."""
    # Optax initialises both moments of Yogi to 1e-6.
    begun = 1e-6 if options.server_optimizer == "yogi" else 0.0
    filled = {name: np.full_like(value, begun) for name, value in shared.items()}
    return {"step": 0, "first": filled, "second": filled}


def server_direction(options, gradient, optimizer, name):
    """The direction of one leaf's step and its new moments; `optimizer` has the new step."""
    step, m, v = optimizer["step"], optimizer["first"][name], optimizer["second"][name]
    if options.server_optimizer == "sgd":
        return gradient, m, v
    if options.server_optimizer == "momentum":
        m = 0.9 * m + gradient
        return m, m, v
    m = 0.9 * m + 0.1 * gradient
    if options.server_optimizer == "adam":
        v = 0.999 * v + 0.001 * gradient**2
        epsilon = 1e-8
    else:
        v = v - 0.001 * np.sign(v - gradient**2) * gradient**2
        epsilon = 1e-3
    return (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + epsilon), m, v


def server_step(options, shared, gradient, optimizer):
    """(new shared, new optimizer state): every leaf by its group's step, decay decoupled."""
    if options.server_optimizer == "none":
        return shared, optimizer
    new_shared, first, second = {}, {}, {}
    optimizer = optimizer | {"step": optimizer["step"] + 1}
    for name, value in shared.items():
        direction, first[name], second[name] = server_direction(
            options, gradient[name], optimizer, name
        )
        if name.startswith("head/"):
            rate, decay = options.server_lr_head, 0.0
        else:
            table = name == "table"
            rate = options.server_lr_items if table else options.server_lr_fusion
            decay = options.server_decay
        new_shared[name] = value - rate * (direction + decay * value)
    return new_shared, {"step": optimizer["step"], "first": first, "second": second}


def play_round(options, features, state, clients, draws=None):
    """One round of Algorithm 1.

    state: {"round": t, "shared": {name: array}, "private": [{name: array}, ...],
    "optimizer": ..., "bound": of adaptive clipping}; shared holds "table", the operators, and
    "head/..." of a shared head. draws: `Draws`.
    Returns (state, report): the mean loss of the clients that answered, each in its first epoch,
    the share of them that was clipped, and how many answered.
    """
    shared = state["shared"]
    if not any(client.epochs for client in clients):
        return state | {"round": state["round"] + 1}, {"loss": 0.0, "clipped": 0.0, "answered": 0}
    parameters = {name: constant(value) for name, value in shared.items()}
    catalogue = views(options, parameters, features).value
    head = {name[5:]: value for name, value in shared.items() if name.startswith("head/")}
    draws = draws or Draws()
    weights = [weight for weight in aggregation_weights(options, clients) if weight]
    bound = state["bound"] if options.clip_quantile else options.clip_norm
    private, losses, clipped, arrived = [], [], [], []
    for client, own in zip(clients, state["private"], strict=True):
        if client.epochs == 0:
            private.append(own)
            continue
        new, upload, loss = train_client(options, own, head, catalogue, client, state["round"])
        upload, new, was_clipped = uploads.sent_upload(
            options, upload, new, client, bound, draws.basis
        )
        if options.aggregation == "secure":
            upload, clamped = uploads.in_levels(options, upload, client.levels)
            was_clipped |= clamped
        arrived.append(upload)
        private.append(new)
        losses.append(loss[0])
        clipped.append(was_clipped)
    mean = uploads.combined(options, arrived, weights, bound, draws)
    gradient = shared_gradient(options, shared, features, mean)
    new_shared, optimizer = server_step(options, shared, gradient, state["optimizer"])
    new_state = {
        "round": state["round"] + 1,
        "shared": new_shared,
        "private": private,
        "optimizer": optimizer,
    }
    if options.clip_quantile:
        new_state["bound"] = uploads.next_bound(options, bound, clipped)
    report = {"loss": np.mean(losses), "clipped": np.mean(clipped), "answered": len(losses)}
    return new_state, report


# --- Ranking --------------------------------------------------------------------------------------


def all_scores(options, features, state, clients):
    """The score of every client for every item with its private rows: (scores [N, I], weights of
    the views [N, G])."""
    parameters = {name: constant(value) for name, value in state["shared"].items()}
    catalogue = views(options, parameters, features)
    head = {name[5:]: p for name, p in parameters.items() if name.startswith("head/")}
    rows, mixtures = [], []
    for client, own in zip(clients, state["private"], strict=True):
        private = {name: constant(value) for name, value in own.items()}
        rows.append(scores(options, private, head, catalogue, client, leave_out=False).value)
        mixtures.append(item_vectors(options, private, catalogue, client)[1].value)
    return np.array(rows), np.array(mixtures)


def ranks(score, target, masked):
    """(items ahead of the target, others tied with it) among the items that are not masked."""
    rivals = [i for i in range(len(score)) if i != target and i not in masked]
    return sum(score[i] > score[target] for i in rivals), sum(
        score[i] == score[target] for i in rivals
    )


# --- Metrics --------------------------------------------------------------------------------------


def list_metrics(ranking, targets, k):
    """Metrics of one ranked list of items, best first, at cut-off k."""
    relevant = np.array([item in targets for item in ranking[:k]], dtype=float)
    rank = np.arange(1, len(relevant) + 1)
    most = min(len(targets), k)
    ideal = sum(1 / np.log2(1 + r) for r in range(1, most + 1))
    precision = np.cumsum(relevant) / rank
    first = np.flatnonzero(relevant)
    return {
        "hr": float(relevant.any()),
        "recall": relevant.sum() / len(targets),
        "precision": relevant.sum() / k,
        "ndcg": (relevant / np.log2(1 + rank)).sum() / ideal,
        "mrr": 1 / rank[first[0]] if len(first) else 0.0,
        "map": (precision * relevant).sum() / most,
    }


def expected_metrics(score, candidates, targets, k):
    """The mean over every order of the candidates that agrees with the scores: n! orders."""
    sums = {}
    orders = list(itertools.permutations(candidates))
    for order in orders:
        ranking = sorted(order, key=lambda item: -score[item])  # stable: ties keep this order
        for name, value in list_metrics(ranking, targets, k).items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / len(orders) for name, value in sums.items()}
