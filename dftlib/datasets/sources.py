"""Where data sets and weights are published, under which terms, and by which files."""

from dataclasses import dataclass
from pathlib import Path

LFW = "https://ndownloader.figshare.com/files/5976015"  # scikit-learn's copy: LFW's own site is gone
LFW_SHA256 = "sha256:b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a"
PUBFIG = "www.cs.columbia.edu/CAVE/databases/pubfig/download"
CELEBA = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
VGGFACE = "https://www.robots.ox.ac.uk/~albanie/models/pytorch-mcn/vgg_face_dag.pth"
DLIB_FILE = "dlib_face_recognition_resnet_model_v1.dat"
DLIB_SHA256 = "sha256:55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
MUCT = "https://raw.githubusercontent.com/StephenMilborrow/muct/master"


@dataclass(frozen=True)
class File:
    name: str
    goal: str  # below DIR: the file itself, or the folder that the archive holds
    url: str
    hash: str = ""  # ALGORITHM:HEX; empty where none is published
    content: str = ""  # the same of what is unpacked, where that is a file
    unless: str = ""  # below DIR: what makes it needless where it is there

    @property
    def packed(self) -> bool:
        return self.name != Path(self.goal).name


@dataclass(frozen=True)
class Source:
    title: str
    terms: str
    stated: str  # where the terms stand
    by_hand: str  # where a browser finds the files
    files: tuple[File, ...]
    use: str = ""  # how, where it is no data set; {to} is DIR
    asks: bool = True  # whether there are terms to accept


SOURCES = {
    "lfw": Source(
        "Labeled Faces in the Wild (LFW), with the attributes of Columbia University: LFW's own site is gone, and this is "
        "scikit-learn's copy of the funneled pictures; deep-funneled ones, aligned better, are to be had by hand only, and are "
        "read in their place from lfw/lfw-deepfunneled",
        "For research on face verification; the people in its pictures, taken from the news, never consented to more.",
        "web.archive.org/web/2024/http://vis-www.cs.umass.edu/lfw",
        f"{PUBFIG}, {LFW} (funneled), www.kaggle.com/datasets/jessicali9530/lfw-dataset (deep-funneled)",
        (
            File("lfw_attributes.txt", "lfw/lfw_attributes.txt", f"http://{PUBFIG}/lfw_attributes.txt"),
            File("lfw-funneled.tgz", "lfw/lfw_funneled", LFW, LFW_SHA256, unless="lfw/lfw-deepfunneled"),
        ),
    ),
    "celeba": Source(
        "CelebFaces Attributes (CelebA)",
        "For non-commercial research only; no part of it may be copied further, published or distributed.",
        CELEBA,
        f"{CELEBA} or www.kaggle.com/datasets/jessicali9530/celeba-dataset",
        # identity_CelebA.txt, which the loader takes where it is, is given by its authors on request only
        tuple(
            File(name, f"celeba/{name.removesuffix('.zip')}", DRIVE + key, f"md5:{md5}")
            for name, key, md5 in (
                ("list_attr_celeba.txt", "0B7EVK8r0v71pblRyaVFSWGxPY0U", "75e246fa4810816ffd6ee81facbd244c"),
                ("list_eval_partition.txt", "0B7EVK8r0v71pY0NSMzRuSXJEVkk", "d32c9cbf5e040fd4025c592c306e6668"),
                ("img_align_celeba.zip", "0B7EVK8r0v71pZjFTYXZWM3FlRnM", "00d2c5bc6d35e252742224ab0c1e8fcb"),
            )
        ),
    ),
    "muct": Source(
        "MUCT face database",
        "Its authors ask that none of its pictures be shown in public; subjects 000, 001, 002, 200, 201, 400, 401 and 402 alone "
        "agreed to be shown in academic papers.",
        "www.milbo.org/muct",
        "github.com/StephenMilborrow/muct",
        tuple(File(name, "muct/jpg", f"{MUCT}/{name}") for name in (f"muct-{camera}-jpg-v1.tar.gz" for camera in "abcde")),
    ),
    "vggface": Source(
        "VGGFace weights of Oxford's Visual Geometry Group, converted to PyTorch",
        "For non-commercial research only, under a Creative Commons Attribution License.",
        "www.robots.ox.ac.uk/~vgg/software/vgg_face",
        VGGFACE,
        (File("vgg_face_dag.pth", "vgg_face_dag.pth", VGGFACE),),
        "in a notebook of profile 'paper' with -p weights {to}/vgg_face_dag.pth",
    ),
    "dlib_face": Source(
        "Weights of dlib's face recognition network (ResNet-29)",
        "In the public domain (CC0).",
        "github.com/davisking/dlib-models",
        "dlib.net/files",
        (File(f"{DLIB_FILE}.bz2", DLIB_FILE, f"http://dlib.net/files/{DLIB_FILE}.bz2", content=DLIB_SHA256),),
        f"in a notebook of profile 'identity' with -p weights {{to}}/{DLIB_FILE}",
        asks=False,
    ),
}
