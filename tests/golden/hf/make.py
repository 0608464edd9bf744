"""Make the golden arrays beside this file with transformers' own processors; see README.md. Not run by the suite."""

import importlib.util
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
HALF = {"image_mean": [0.5, 0.45, 0.4], "image_std": [0.5, 0.25, 0.2]}
SMALL = {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}
SQUARE = {"size": {"height": 20, "width": 24}}
PATCHES = {"patch_size": 4, "max_num_patches": 24}

CASES = {  # name -> class in transformers, its settings
    "videomae-video": ("VideoMAEVideoProcessor", SMALL),
    "videomae-image": ("VideoMAEImageProcessor", SMALL),
    "videomae-pil": ("VideoMAEImageProcessorPil", SMALL),
    "videomae-pad": ("VideoMAEVideoProcessor", {"size": {"shortest_edge": 15}, "crop_size": 20}),
    "videomae-no-crop": ("VideoMAEVideoProcessor", SQUARE | {"do_center_crop": False} | HALF),
    "videomae-not-rescaled": ("VideoMAEVideoProcessor", SMALL | {"do_rescale": False}),
    "videomae-not-normalized": ("VideoMAEVideoProcessor", SMALL | {"do_normalize": False}),
    "xclip": ("VideoMAEImageProcessor", {"size": 20, "crop_size": 20} | HALF),
    "vjepa2": ("VJEPA2VideoProcessor", {"crop_size": 21}),
    "timesformer": ("TimesformerVideoProcessor", SMALL),
    "vivit-video": ("VivitVideoProcessor", SMALL),
    "vivit-image": ("VivitImageProcessor", SMALL),
    "dinov3": ("DINOv3ViTImageProcessor", SQUARE),
    "siglip": ("SiglipImageProcessor", SQUARE),
    "siglip2": ("Siglip2ImageProcessor", PATCHES),
    "siglip2-pil": ("Siglip2ImageProcessorPil", PATCHES),
    "clip": ("CLIPImageProcessor", SMALL),
    "vit": ("ViTImageProcessor", SQUARE),
    "dinov2": ("BitImageProcessor", SMALL),
    "videoprism": ("LlavaOnevisionVideoProcessor", SQUARE),
    "nearest": ("VideoMAEVideoProcessor", SMALL | {"resample": 0}),
}


def _declare_torchvision():
    """Declare torchvision's compiled operators by name, so that it imports beside a CPU build of torch. None runs."""
    import torch

    root = pathlib.Path(importlib.util.find_spec("torchvision").submodule_search_locations[0])
    text = (root / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted({*re.findall(r"torchvision::(\w+)", text), *re.findall(r'register_meta\("(\w+)"', text)}):
        library.define(f"{name}(Tensor x) -> Tensor")
    import torchvision

    return library, torchvision.__version__


def _inputs():
    """Three clips of two frames: wide, tall, and smaller than the result; smooth shades, edges and noise."""
    import numpy as np

    generator = np.random.default_rng(0)
    clips = {}
    for name, (height, width) in {"wide": (37, 58), "tall": (53, 31), "small": (11, 14)}.items():
        rows, columns = np.mgrid[:height, :width]
        shade = np.stack([rows * 255 / height, columns * 255 / width, 255 * ((rows // 5 + columns // 7) % 2)], axis=-1)
        noise = generator.integers(-40, 41, (2, height, width, 3))
        clips[name] = np.clip(shade[None] + noise, 0, 255).astype(np.uint8)
    return clips


def main():
    library, torchvision_version = _declare_torchvision()
    import numpy as np
    import PIL
    import torch
    import transformers

    clips = _inputs()
    arrays, jsons, defaults = {f"input/{name}": clip for name, clip in clips.items()}, {}, {}
    for case, (cls, settings) in CASES.items():
        make = getattr(transformers, cls)
        processor = make(**settings)
        jsons[case] = json.loads(processor.to_json_string())
        defaults[cls] = json.loads(make().to_json_string())
        for name, clip in clips.items():
            frames = list(clip)
            if cls.endswith("VideoProcessor"):
                found = processor([clip], return_tensors="pt")
            elif cls.startswith(("VideoMAE", "Vivit")):
                found = processor(frames, return_tensors="pt")
            else:
                found = processor(images=frames, return_tensors="pt")
            for key, value in found.items():
                video = value[0] if cls.startswith(("VideoMAE", "Vivit")) or cls.endswith("VideoProcessor") else value
                key = "pixel_values" if key == "pixel_values_videos" else key
                arrays[f"{case}/{name}/{key}"] = video.numpy()
    np.savez_compressed(HERE / "preprocess.npz", **arrays)
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision_version,
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    cases = {"versions": versions, "cases": jsons, "defaults": defaults}
    (HERE / "preprocess.json").write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")
    del library


if __name__ == "__main__":
    main()
