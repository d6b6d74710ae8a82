"""The report of a run: what it printed at its end, and a page to look at, `report.html`.

The page is one file without any address in it, so it opens from a disk and can be sent by mail.
`printed.py` has the tables, and `page.py` writes the page. What a page holds is data: `content.py`
says what a run did, `samples.py` what the model said to held-out samples, and `groups.py` what it
said in training. The page's own program is in `assets/report/`.
"""
