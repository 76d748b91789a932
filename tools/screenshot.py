"""The screenshot in the README: a page of the gallery as headless Chromium draws it. Needs playwright and chromium."""

from __future__ import annotations

import argparse
import shutil
import struct
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "reports" / "examples" / "out-of-memory.html"
PICTURE = ROOT / "docs" / "report.png"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
HALF = {"width": 1120, "height": 1080}
CLIP = {"x": 222, "y": 0, "width": 898, "height": 1080}
"""The halves of the picture: verdict and findings, and without the contents memory."""
JOIN = """
async ([left, right]) => {
  const images = await Promise.all([left, right].map(async (data) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    return image;
  }));
  const canvas = document.createElement("canvas");
  canvas.width = images[0].width + images[1].width;
  canvas.height = images[0].height;
  const context = canvas.getContext("2d", { alpha: false });
  context.drawImage(images[0], 0, 0);
  context.drawImage(images[1], images[0].width, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}
"""


def _smaller(png: bytes) -> bytes:
    """The same picture, compressed with patience: browsers hurry."""
    head, at, chunks = png[:8], 8, []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    kept = [next(chunk for chunk in chunks if chunk[0] == b"IHDR"), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return head + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in kept
    )


def main() -> None:
    """Write docs/report.png."""
    argparse.ArgumentParser(description=__doc__).parse_args()

    from base64 import b64decode, b64encode

    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        sys.exit("The screenshot needs Chromium: apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        context = browser.new_context(viewport=HALF, reduced_motion="reduce", color_scheme="light")
        page = context.new_page()
        page.goto(PAGE.as_uri())
        left = page.screenshot()
        page.evaluate("document.getElementById('memory').scrollIntoView()")
        page.locator(".contents a[aria-current]", has_text="Memory").wait_for()
        right = page.screenshot(clip=CLIP)
        blank = context.new_page()
        joined = blank.evaluate(JOIN, [b64encode(left).decode(), b64encode(right).decode()])
        browser.close()
    PICTURE.write_bytes(_smaller(b64decode(joined)))
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
