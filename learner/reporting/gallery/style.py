"""The gallery's style sheet. Everything is text, boxes and images: no script, no font, nothing fetched."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d1b19; --soft: #6f6a64; --line: #e6e1da;
  --up: #157f3d; --down: #b4332b; --accent: #c2327c; --bar: #3f6fb5; --bar-base: #ece7e0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #151413; --card: #1e1d1b; --ink: #ece8e2; --soft: #9b958d; --line: #33302c;
    --up: #5fca85; --down: #f0837a; --accent: #f472b6; --bar: #7ba7e6; --bar-base: #2c2a27;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 92rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.02em; }
h2 { font-size: 1.25rem; margin: 3rem 0 .3rem; letter-spacing: -.01em; }
h3 { font-size: 1.02rem; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0 0 1rem; max-width: 46rem; }
.soft, figcaption, dt, .facts { color: var(--soft); }
.facts { margin: 0 0 1.5rem; }
.facts span { margin-right: 1.2rem; display: inline-block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1rem; }
th, td { padding: .35rem clamp(.5rem, 2vw, 1.6rem) .35rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
.up { color: var(--up); } .down { color: var(--down); }
article {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1.1rem 1.2rem 1.2rem; margin: 1rem 0;
}
header.task { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; margin-bottom: .8rem; }
header.task .id { font-size: .85rem; }
.numbers { margin: 0; font-size: .85rem; display: grid; gap: .5rem; align-content: center; }
.numbers dd { margin: 0; font-variant-numeric: tabular-nums; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: .9rem; }
@media (min-width: 60rem) { .images { grid-template-columns: repeat(5, 1fr); } }
.candidates { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem .9rem; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 8px; background: var(--bar-base); }
figure img.small { image-rendering: pixelated; }
figcaption { font-size: .82rem; margin-top: .3rem; }
.trained figcaption b, .best figcaption b { color: var(--accent); }
figcaption b { color: var(--ink); font-weight: 600; }
.bars { display: grid; grid-template-columns: 1fr auto; gap: .05rem .5rem; font-size: .78rem;
  font-variant-numeric: tabular-nums; color: var(--soft); margin-top: .25rem; }
.bars b { font-weight: 400; text-align: right; }
.bars svg { grid-column: 1 / -1; width: 100%; height: 4px; display: block; margin-bottom: .25rem; }
.bars .track { fill: var(--bar-base); } .bars .value { fill: var(--bar); }
.missing { color: var(--down); font-size: .78rem; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media print { article { break-inside: avoid; } body { max-width: none; } }
"""
