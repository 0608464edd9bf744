"""ViCLIP: the video-text model of InternVid; loads the published weights.

Source: Wang et al. 2023, InternVid (arXiv 2307.06942), section 4; sizes, names and rules as measured on the released
model.
"""

from mnprobe.models.clip.tokenizer import Tokenizer, clean_caption
from mnprobe.models.viclip.config import ViCLIPConfig
from mnprobe.models.viclip.load import load_viclip
from mnprobe.models.viclip.loss import contrastive_loss
from mnprobe.models.viclip.masking import draw_mask
from mnprobe.models.viclip.model import ViCLIP
from mnprobe.models.viclip.preprocessing import crop_images, preprocess, resize_bilinear
from mnprobe.models.viclip.recognition import Recognition, recognise, zero_shot
from mnprobe.models.viclip.resizing import inflate_patch, resize_spatial, resize_temporal, resize_text
from mnprobe.models.viclip.sampling import sample_frames
from mnprobe.models.viclip.video import VideoEncoder

__all__ = [
    "Recognition",
    "Tokenizer",
    "ViCLIP",
    "ViCLIPConfig",
    "VideoEncoder",
    "clean_caption",
    "contrastive_loss",
    "crop_images",
    "draw_mask",
    "inflate_patch",
    "load_viclip",
    "preprocess",
    "recognise",
    "resize_bilinear",
    "resize_spatial",
    "resize_temporal",
    "resize_text",
    "sample_frames",
    "zero_shot",
]
