"""The images and options of a request to predict.

parsing.py      the images and options in it
body.py         its body, within limits
multipart.py    a form with files
json_body.py    JSON
base64_text.py  base64 as clients write it
options.py      top_k and explain
"""
