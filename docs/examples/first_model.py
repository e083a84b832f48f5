"""Your first model: photos in a folder for each class, in; a served classifier, out.

python docs/examples/first_model.py PHOTOS [STORAGE]
"""

import sys
import urllib.request
from pathlib import Path

import rtl


def main(photos: Path, storage: Path, *, port: int = 8000, **settings: object) -> None:
    """Packs, searches, promotes, serves and asks; `settings` are keys of the config."""
    data = storage / "data"
    config = rtl.load_config(overrides=settings)
    manifest = rtl.pack(photos, data, recipe=config)
    print(f"{len(manifest.classes)} classes: {', '.join(manifest.classes)}")

    found = rtl.search(data, name="first", storage=storage, recipe=config, budget="10m")
    print(f"{found.model}: {found.unfrozen_layers} unfrozen layers, {len(found.trials)} trials")
    scores = rtl.evaluate(found.model, data, split="val", storage=storage).scores
    print(f"accuracy on val: {scores.accuracy.value:.3f}")
    rtl.Registry(storage).promote(found.name, found.version)
    print(f"report: {rtl.report('first', storage=storage, out=storage / 'first.html').uri}")

    photo = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    model = rtl.load_model("first", storage=storage)
    answer = model.predict(photo)
    unsure = ", uncertain" if answer.uncertain else ""
    print(f"{photo.name}: {answer.label} ({answer.probability:.2f}{unsure})")
    (storage / "heatmap.png").write_bytes(model.explain(photo).png)

    with rtl.serve("first", storage=storage, port=port) as endpoint:
        request = urllib.request.Request(f"{endpoint.url}/v1/predict", data=photo.read_bytes())
        with urllib.request.urlopen(request) as response:
            print(response.read().decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "rtl-data"))
