"""Tables of image paths and labels.

listing.py       a table, or a folder of its parts, as rows
csv_file.py      .csv and .tsv, as spreadsheets write them
parquet_file.py  .parquet
columns.py       which column has the path, the label, the split
image_paths.py   paths and URIs as people and programs write them
"""
