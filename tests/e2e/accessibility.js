// The faults of the page that is shown, as sentences; `focusFault` looks at the element that has the keyboard's focus.
() => {
  const faults = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const told = (element) => `${element.tagName.toLowerCase()} "${(element.textContent || element.outerHTML).trim().slice(0, 50)}"`;
  all("details").forEach((item) => { item.open = true; });

  if (!document.documentElement.lang) faults.push("the page has no language");
  if (!document.title.trim()) faults.push("the page has no title");
  if (all("main").length !== 1) faults.push("there is not exactly one main landmark");
  const levels = all("h1, h2, h3, h4, h5, h6").map((heading) => [Number(heading.tagName[1]), heading]);
  if (levels.filter(([level]) => level === 1).length !== 1) faults.push("there is not exactly one h1");
  levels.forEach(([level, heading], i) => {
    if (level > (i ? levels[i - 1][0] : 0) + 1) faults.push(`a heading level is left out before ${told(heading)}`);
  });

  const ids = all("[id]").map((element) => element.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => faults.push(`the id ${id} is used twice`));
  const name = (element) => {
    const by = element.getAttribute("aria-labelledby");
    if (by) return by.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
    const pictures = [...element.querySelectorAll("img, svg[role=img]")];
    const alt = pictures.map((picture) => picture.getAttribute("alt") ?? picture.getAttribute("aria-label") ?? "").join(" ");
    return (element.getAttribute("aria-label") || element.textContent.trim() || alt || "").trim();
  };
  all("img:not([alt])").forEach((image) => faults.push(`an image has no alt: ${image.src.slice(0, 60)}`));
  all("svg").filter((drawing) => !name(drawing) && !drawing.closest("[aria-hidden=true]"))
    .forEach((drawing) => faults.push(`a drawing has no name: ${drawing.outerHTML.slice(0, 60)}`));
  all("a[href], button, summary").filter((element) => !name(element))
    .forEach((element) => faults.push(`no name: ${element.outerHTML.slice(0, 80)}`));
  all("[role=region], [role=group], nav").filter((element) => !element.hasAttribute("aria-label") && !name(element))
    .forEach((element) => faults.push(`a region has no name: ${element.outerHTML.slice(0, 80)}`));
  all("input:not([type=hidden]), select, textarea, meter").filter((field) => !field.labels?.length && !field.getAttribute("aria-label"))
    .forEach((field) => faults.push(`no label: ${field.outerHTML.slice(0, 80)}`));
  all("*").filter((element) => {
    const overflow = getComputedStyle(element).overflowX;
    if (!["auto", "scroll"].includes(overflow) || element.scrollWidth <= element.clientWidth) return false;
    return element.tabIndex < 0 && !element.querySelector("a[href], button, input");
  }).forEach((element) => faults.push(`${told(element)} scrolls, but the keyboard cannot reach it`));
  if (document.documentElement.scrollWidth > innerWidth) {
    faults.push(`the page is ${document.documentElement.scrollWidth - innerWidth} pixels too wide`);
  }

  const colour = (text) => {
    const numbers = text.match(/-?[\d.]+(e-?\d+)?/g)?.map(Number) ?? [0, 0, 0, 0];
    const scale = text.startsWith("color(") ? 255 : 1;
    return [...numbers.slice(0, 3).map((value) => value * scale), numbers[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((value) => value / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(colour(getComputedStyle(e).backgroundColor));
    const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    return layers.reverse().reduce((below, layer) => over(layer, below), canvas);
  };
  const opacity = (element) => {
    let product = 1;
    for (let e = element; e; e = e.parentElement) product *= Number(getComputedStyle(e).opacity);
    return product;
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || seen.has(element) || element.closest("script, style, title, [hidden], .skip")) continue;
    seen.add(element);
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const below = background(element);
    const ink = colour(element instanceof SVGElement ? style.fill : style.color);
    const shown = over([...ink.slice(0, 3), ink[3] * opacity(element)], below);
    const [light, dark] = [luminance(shown), luminance(below)].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 600);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < (large ? 3 : 4.5)) faults.push(`contrast ${contrast.toFixed(2)} of ${told(element)}`);
  }

  window.focusFault = () => {
    const element = document.activeElement;
    if (!element || element === document.body) return [];
    const style = getComputedStyle(element);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    return outlined ? [] : [`the focus does not show on ${told(element)}`];
  };
  return faults;
}
