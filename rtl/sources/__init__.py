"""Where labelled images come from: a source's rows, listed without reading a pixel.

    class folders     SRC/CLASS/*, or SRC/{train,val,test}/CLASS/*
    table             one .csv or .parquet with a column of paths or URIs and one of labels
    Stanford Dogs     SRC/Images/nXXXX-NAME/*.jpg with train_list.mat and test_list.mat
    WebDataset        .tar files with key.jpg beside key.cls or key.json

Sources are local or `s3://`. Hidden files are no rows; a file's extension is not trusted, except
inside a tar, where it tells the image from its label. What cannot become a row is quarantined with
a reason. Ids are paths relative to the source, so that they do not change with its place.
"""

from rtl.sources.files import visible_files
from rtl.sources.listing import list_source
from rtl.sources.rows import Listing, Row, shown

__all__ = ["Listing", "Row", "list_source", "shown", "visible_files"]
