"""The style sheet of a page: light and dark, for phones and wide screens, and for paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #222222; --soft: #5c5c5c; --muted: #767676; --grid: #e4e4e4;
  --line: #d0d0d0; --card: #f6f6f4; --accent: #0061a1; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e9e9e6; --soft: #b3b3ae; --muted: #9a9a96;
  --grid: #34373c; --line: #43474d; --card: #1e2125; --accent: #7cc0f4; }
  svg.figure [style*="#0072b2"] { filter: brightness(1.5); }
  svg.figure [style*="#cc3311"], svg.figure image { filter: brightness(1.35); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--accent);
  outline-offset: 2px; }
.lead, figcaption, .note { color: var(--soft); }
figcaption, .note { font-size: .9rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .75rem 0; }
nav a { display: inline-block; padding: .25rem 0; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: .4rem; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--muted); }
tbody th { font-weight: 400; }
tr.main th, tr.main td { font-weight: 700; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1rem; margin: .75rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.figures { margin: 1.25rem 0; display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; min-width: 0; }
figure h3 { font-size: 1rem; margin: 0 0 .25rem; }
svg.figure { display: block; width: 100%; max-width: 34rem; height: auto; color: var(--ink); fill: var(--ink);
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--accent); padding: .25rem 0; }
ol.pairs { list-style: none; padding: 0; margin: .75rem 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
ol.pairs > li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
ol.pairs h4 { margin: 0 0 .4rem; font-size: 1rem; line-height: 1.35; overflow-wrap: anywhere; }
ol.pairs p { margin: .3rem 0; font-size: .9rem; overflow-wrap: anywhere; }
.samples { display: flex; flex-wrap: wrap; gap: .4rem; margin: .3rem 0 .6rem; }
.samples img { width: 5.5rem; height: 5.5rem; object-fit: contain; background: var(--paper); border-radius: .25rem;
  border: 1px solid var(--line); }
.samples img.small { image-rendering: pixelated; }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""
