"""Files in object stores: s3://, gs://, az:// and, to read, https://. The library behind it is
imported when the first of them is asked for.
"""
