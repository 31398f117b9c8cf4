"""The ten languages: how paths name them, and how a line that was left in English is told."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """A language by its code; `words` are frequent ones that English does not have, `letters` those beyond a to z."""

    code: str
    names: tuple[str, ...]  # in paths
    words: frozenset[str]
    letters: frozenset[str]


def _language(code: str, names: str, words: str, letters: str) -> Language:
    return Language(code, tuple(names.split()), frozenset(words.split()), frozenset(letters))


LANGUAGES = tuple(
    _language(*row)
    for row in (
        (
            "cs",
            "cs cs-CZ cs_CZ",
            "se je na pro ve že není který která které nebo jsou jako při být může lze pokud tento tato toto soubor "
            "po ze za jen podle tak by aby však bude",
            "áčďéěíňóřšťúůýž",
        ),
        (
            "de",
            "de de-DE de_DE",
            "der die das und ist nicht mit den von zu für ein eine einen einer wird werden auf dem des sich oder sie "
            "es als wenn auch kann bei aus im zum zur nach wie um diese dieser",
            "äöüß",
        ),
        (
            "es",
            "es es-ES es_ES",
            "el la los las de que en un una para por con se del al como su si o y es lo más este esta no son puede",
            "áéíñóúü",
        ),
        (
            "fr",
            "fr fr-FR fr_FR",
            "le la les de des du un une et est pas pour dans par que qui sur avec en au aux ce cette ou il vous si ne "
            "sont se être votre",
            "àâæçèéêëîïôœùûüÿ",
        ),
        (
            "hu",
            "hu hu-HU hu_HU",
            "az és egy nem hogy ha is vagy van meg csak amely ezt ez ki el mint lehet kell de azt volt még már minden",
            "áéíóöőúüű",
        ),
        (
            "pl",
            "pl pl-PL pl_PL",
            "się na nie do jest że lub dla przez jako po są jeśli który która które aby może od ten tego oraz tylko ze "
            "być można za czy",
            "ąćęłńóśźż",
        ),
        (
            "pt",
            "pt-br pt_BR pt-BR",
            "o os um uma de do da dos das que para com não em no na por se ou é são ao você como este esta seu mais "
            "pode foi",
            "áâãàçéêíóôõú",
        ),
        (
            "ro",
            "ro ro-RO ro_RO",
            "de la în și este nu un pe cu se pentru din care sau sunt fi va este să ca această acest mai dacă poate al "
            "ale",
            "ăâîșțşţ",
        ),
        (
            "tr",
            "tr tr-TR tr_TR",
            "bir ve bu için ile olarak veya da de en değil olan daha her ise kadar sonra gibi çok ne şu var yok",
            "çğıöşüâî",
        ),
        (
            "vi",
            "vi vi-VN vi_VN",
            "không và của cho là các có được này trong để với bạn một khi từ hay hoặc tập tin đã sẽ như tên nếu về",
            "àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
        ),
    )
)
BY_NAME = {name: language for language in LANGUAGES for name in language.names}

ENGLISH = frozenset(
    "the of and to is are be this that with for from not you can will it or if by when which has have your use used "
    "using an as was should may must all any but into only file files".split()
)
WORD = re.compile(r"[^\W\d_]+")


def language_of(path: str) -> Language | None:
    """The language that a file's path names by a folder (`/fr/`, `/pt-BR/`) or before its ending (`a.fr.html`)."""
    *folders, name = path.split("/")
    for part in (*reversed(folders), *name.split(".")[-2:-1]):
        if part in BY_NAME:
            return BY_NAME[part]
    return None


def is_native(line: str, language: Language) -> bool:
    """Whether a line is in its language rather than left in English: more of its words tell the one than the other."""
    lowered = line.casefold()
    words = WORD.findall(lowered)
    native = sum(word in language.words or not language.letters.isdisjoint(word) for word in words)
    return native > sum(word in ENGLISH and word not in language.words for word in words)
