"""Where labelled images come from: a source's rows, listed without reading a pixel.

    class folders     SRC/CLASS/*, or SRC/SPLIT/CLASS/* (`splits` has the names of a split)
    table             a .csv, .tsv or .parquet, or a folder of its parts, with a column of paths
                      or URIs and one of labels
    Stanford Dogs     SRC/Images/nXXXX-NAME/*.jpg with train_list.mat and test_list.mat
    WebDataset        .tar files with an image beside a .cls, .label, .class, .json or .txt

Sources are local or `s3://`. A file's extension is not trusted, except inside a tar, where it tells
the image from its label. Each file is a row, or it is quarantined with a reason (what was to be a
row), or it is counted and named (`Listing.left_out`: hidden files, clutter of systems, links, files
beside). Ids are paths relative to the source, so that they do not change with its place.
"""

from rtl.data.sources.clutter import Tally
from rtl.data.sources.files import visible_files
from rtl.data.sources.gathered import Rows
from rtl.data.sources.listing import Listing, list_source
from rtl.data.sources.rows import Row, shown

__all__ = ["Listing", "Row", "Rows", "Tally", "list_source", "shown", "visible_files"]
