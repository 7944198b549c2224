"""Files that are no records at all, given by mistake: each is named by its first bytes, with the way to make records of it.

One fault says what the file is, in place of one for every line that is not JSON.

Source: the magic numbers of RFC 1952 (gzip), RFC 8878 (zstd), APPNOTE 4.3.7 (zip), POSIX ustar, ISO 32000 (PDF), RFC 2083
(PNG), and the documentation of bzip2, xz, 7z, Parquet, Arrow and SQLite.
"""

from services.dataset.faults import Fault

GZIP = b"\x1f\x8b"
_ENCODING, _COMPRESSED, _FORMAT = "ENCODING_UNSUPPORTED", "FILE_COMPRESSED", "FORMAT_UNSUPPORTED"
_AS_UTF8 = "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW."
_AS_JSONL = "write its rows as JSONL, one object a line."
_MAGIC = (
    (0, b"\xff\xfe\0\0", _ENCODING, "The file is UTF-32; save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > NEW."),
    (0, b"\0\0\xfe\xff", _ENCODING, "The file is UTF-32; save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > NEW."),
    (0, b"\xff\xfe", _ENCODING, f"The file is UTF-16; {_AS_UTF8}"),
    (0, b"\xfe\xff", _ENCODING, f"The file is UTF-16; {_AS_UTF8}"),
    (0, GZIP, _COMPRESSED, "The file is packed with gzip twice; unpack it once: gunzip FILE."),
    (0, b"PK\x03\x04", _COMPRESSED, "The file is a zip archive; unpack it and upload the JSONL file in it."),
    (0, b"PK\x05\x06", _COMPRESSED, "The file is a zip archive with nothing in it; upload the JSONL file itself."),
    (257, b"ustar", _COMPRESSED, "The file is a tar archive; unpack it and upload the JSONL file in it: tar -xf FILE."),
    (0, b"\x28\xb5\x2f\xfd", _COMPRESSED, "The file is compressed with zstd; unpack it first: unzstd FILE."),
    (0, b"BZh", _COMPRESSED, "The file is compressed with bzip2; unpack it first: bunzip2 FILE."),
    (0, b"\xfd7zXZ\0", _COMPRESSED, "The file is compressed with xz; unpack it first: unxz FILE."),
    (0, b"7z\xbc\xaf\x27\x1c", _COMPRESSED, "The file is a 7z archive; unpack it first: 7z x FILE."),
    (0, b"PAR1", _FORMAT, f"The file is Parquet; {_AS_JSONL}"),
    (0, b"ARROW1", _FORMAT, f"The file is Arrow; {_AS_JSONL}"),
    (0, b"SQLite format 3\0", _FORMAT, f"The file is an SQLite database; {_AS_JSONL}"),
    (0, b"%PDF-", _FORMAT, "The file is a PDF; upload examples as JSONL, one object a line."),
    (0, b"\x89PNG", _FORMAT, "The file is a PNG image; upload examples as JSONL, one object a line."),
)


def foreign(head: bytes) -> Fault | None:
    """Return what a file is that is not UTF-8 text, by the beginning of its first line; None where it may be text."""
    for place, magic, reason, description in _MAGIC:
        if head.startswith(magic, place):
            return Fault(0, reason, description)
    begin = head[:4]
    if b"\0" not in begin:
        return None
    if begin.count(0) == 3 and begin[0] == 0:
        return Fault(0, _ENCODING, "The file looks like UTF-32; save it as UTF-8: iconv -f UTF-32BE -t UTF-8 FILE > NEW.")
    if begin.count(0) == 3:
        return Fault(0, _ENCODING, "The file looks like UTF-32; save it as UTF-8: iconv -f UTF-32LE -t UTF-8 FILE > NEW.")
    if begin.count(0) == 2 and begin[0::2] != b"\0\0":
        return Fault(0, _ENCODING, "The file looks like UTF-16; save it as UTF-8: iconv -f UTF-16LE -t UTF-8 FILE > NEW.")
    if begin.count(0) == 2:
        return Fault(0, _ENCODING, "The file looks like UTF-16; save it as UTF-8: iconv -f UTF-16BE -t UTF-8 FILE > NEW.")
    return Fault(0, _FORMAT, "The file is not text, there are zero bytes in it; upload JSONL in UTF-8, one object a line.")
