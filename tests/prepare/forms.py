"""The same interactions in every form that `prepare` reads."""

import bz2
import gzip
import json
import lzma
import random
import zipfile

import polars as pl
import zstandard

USERS, ITEMS = 12, 9
TITLES = [f"{a} {b}" for a in ("Red", "Blue", "Warm") for b in ("River", "Stone", "Café")]


def rows():
    """(user, item, rating, seconds), shuffled; user 0 repeats a pair later with rating 5."""
    draw = random.Random(7)
    listed = []
    for user in range(USERS):
        time = 1_500_000_000 + draw.randrange(10**7)
        for item in draw.sample(range(ITEMS), draw.randrange(6, 9)):
            time += draw.choice([60, 3600])
            listed.append((user, item, draw.choice([1, 2, 3, 4, 5]), time))
        if user == 0:
            listed.append((*listed[-1][:2], 5, time + 5))
    draw.shuffle(listed)
    return listed


def user_id(user):
    return f"0{user}U"


def item_id(item):
    return f"{item * 37:05d}X" if item else "0000123"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def lines(template, scale=1):
    return "".join(
        template.format(u=user_id(u), i=item_id(i), r=r, t=t * scale, n=u + 1, m=7 * i + 1)
        for u, i, r, t in rows()
    )


def recbole(folder):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    put(folder / "toy.inter", header + lines("{u}\t{i}\t{r}\t{t}.0\n"))
    items = "".join(f'{item_id(i)}\t{t} "x\t1990\n' for i, t in enumerate(TITLES))
    put(folder / "toy.item", "item_id:token\tmovie_title:token_seq\tyear:token\n" + items)


def movielens_dat(folder):
    put(folder / "ratings.dat", lines("{u}::{i}::{r}::{t}\n"))
    items = "".join(f"{item_id(i)}::{t} (1990)::Drama|Comedy\n" for i, t in enumerate(TITLES))
    (folder / "movies.dat").write_bytes(items.encode("latin-1"))


def movielens_csv(folder):
    put(folder / "ratings.csv", "userId,movieId,rating,timestamp\n" + lines("{u},{i},{r}.0,{t}\n"))
    items = "".join(f'{item_id(i)},"{t}, The",Drama\n' for i, t in enumerate(TITLES))
    put(folder / "movies.csv", "movieId,title,genres\n" + items)
    put(folder / "tags.csv", "userId,movieId,tag,timestamp\n")


def movielens_tab(folder):
    put(folder / "u.data", lines("{u}\t{i}\t{r}\t{t}\n"))
    items = "".join(f"{item_id(i)}|{t}|01-Jan-1995||http://x|0\n" for i, t in enumerate(TITLES))
    (folder / "u.item").write_bytes(items.encode("latin-1"))


def amazon_csv(folder):
    put(
        folder / "Toy.csv",
        "user_id,parent_asin,rating,timestamp\n" + lines("{u},{i},{r}.0,{t}\n", 1),
    )
    meta = [{"parent_asin": item_id(i), "title": t, "images": []} for i, t in enumerate(TITLES)]
    meta[1]["title"] = None
    meta[2]["images"] = [{"hi_res": None, "large": "https://example.org/2.jpg"}]
    put(folder / "meta_Toy.jsonl", "".join(json.dumps(line) + "\n" for line in meta))


def amazon_2023(folder):
    review = '{{"rating":{r}.0,"title":"a, \\"b\\"","asin":"z","parent_asin":"{i}",'
    review += '"user_id":"{u}","timestamp":{t}}}\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Toy.jsonl.gz").write_bytes(gzip.compress(lines(review).encode()))


def amazon_2018(folder):
    review = '{{"overall":{r}.0,"verified":true,"reviewTime":"09 1, 2016","reviewerID":"{u}",'
    review += '"asin":"{i}","reviewText":"x","unixReviewTime":{t}}}\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Toy_5.json.gz").write_bytes(gzip.compress(lines(review).encode()))
    meta = [{"asin": item_id(i), "title": t, "imageURL": []} for i, t in enumerate(TITLES)]
    text = "".join(json.dumps(line) + "\n" for line in meta)
    (folder / "meta_Toy.json.gz").write_bytes(gzip.compress(text.encode()))


def ninerec(folder):
    put(folder / "Toy_pair.csv", lines("{i},{u},{t}\n"))
    items = "".join(f'{item_id(i)},"标题 {i}","{t}"\n' for i, t in enumerate(TITLES))
    put(folder / "Toy_item.csv", items)


def parquet(folder):
    folder.mkdir(parents=True, exist_ok=True)
    user, item, rating, time = zip(*rows(), strict=True)
    pl.DataFrame(
        {
            "user_id": [user_id(u) for u in user],
            "item_id": [item_id(i) for i in item],
            "rating": rating,
            "timestamp": time,
        }
    ).write_parquet(folder / "toy.parquet")


def float_parquet(folder):
    """Whole floats, which pandas makes of a column with gaps, and categories and bytes as ids."""
    folder.mkdir(parents=True, exist_ok=True)
    user, item, rating, time = zip(*rows(), strict=True)
    pl.DataFrame(
        {
            "user_id": pl.Series([user_id(u) for u in user], dtype=pl.Categorical),
            "item_id": [item_id(i).encode() for i in item],
            "rating": [float(r) for r in rating],
            "timestamp": [float(t) for t in time],
        }
    ).write_parquet(folder / "toy.csv")


def own_layout(folder):
    put(folder / "inter.csv", "userID,itemID,rating,timestamp\n" + lines("{u},{i},{r},{t}\n"))


def windows(folder):
    text = "\ufeffuser_id;item_id;rating;timestamp\n" + lines("{u}; {i} ;{r};{t}\n")
    put(folder / "toy.csv", (text + "\n").replace("\n", "\r\n"))


def utf16(folder):
    text = "user_id\titem_id\trating\ttimestamp\n" + lines("{u}\t{i}\t{r}\t{t}\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.tsv").write_bytes(text.encode("utf-16"))


def row_numbers(folder):
    """Columns without a name, as data frames write their row numbers."""
    put(folder / "toy.csv", ",,client_id,asin,rating,ts\n" + lines("9,8,{u},{i},{r},{t}\n"))


def json_text(folder):
    put(folder / "toy.txt", lines('{{"user_id":"{u}","item_id":"{i}","rating":{r},"ts":{t}}}\n'))


def zipped(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "toy.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy/", "")
        archive.writestr("__MACOSX/toy/._toy.csv", "x")
        archive.writestr("toy/toy.csv", "user,item,rating,time\n" + lines("{u},{i},{r},{t}\n"))


def with_text(folder):
    """A review with a separator, a quote and two line breaks in a quoted field."""
    text = "user_id,review,item_id,rating,timestamp\n"
    put(folder / "toy.csv", text + lines('{u},"a, ""b""\n\nc",{i},{r},{t}\n'))


def _compressed(compress, suffix):
    def write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = "user_id,item_id,rating,timestamp\n" + lines("{u},{i},{r},{t}\n")
        (folder / f"toy.csv{suffix}").write_bytes(compress(text.encode()))

    return write


FORMS = {
    form.__name__: form
    for form in (
        *(recbole, movielens_dat, movielens_csv, movielens_tab, amazon_csv, amazon_2023),
        *(amazon_2018, ninerec, parquet, float_parquet, own_layout, windows, with_text),
        *(utf16, row_numbers, json_text, zipped),
    )
} | {
    "gz": _compressed(gzip.compress, ".gz"),
    "bz2": _compressed(bz2.compress, ".bz2"),
    "xz": _compressed(lzma.compress, ".xz"),
    "zst": _compressed(zstandard.compress, ".zst"),
}
TITLED = ("recbole", "movielens_dat", "movielens_csv", "movielens_tab", "amazon_csv", "ninerec")
