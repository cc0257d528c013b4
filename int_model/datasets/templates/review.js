"use strict";
(() => {
  const key = "int-review:" + document.body.dataset.identity;
  const boxes = [...document.querySelectorAll("input[data-image]")];
  let memory = "[]"; // where a browser keeps nothing for files, ticks last as long as the page
  const read = () => {
    try {
      memory = localStorage.getItem(key) || "[]";
    } catch {
      /* see above */
    }
    return new Set(JSON.parse(memory));
  };
  const write = (names) => {
    memory = JSON.stringify([...names].sort());
    try {
      localStorage.setItem(key, memory);
    } catch {
      /* see above */
    }
    show();
  };
  const show = () => {
    const names = read();
    for (const box of boxes) box.checked = names.has(box.dataset.image);
    document.getElementById("count").textContent = names.size;
    document.querySelector(".ticked").hidden = names.size === 0;
  };
  for (const box of boxes)
    box.addEventListener("change", () => {
      const names = read();
      if (box.checked) names.add(box.dataset.image);
      else names.delete(box.dataset.image);
      write(names);
    });
  document.getElementById("clear").addEventListener("click", () => write(new Set()));
  document.getElementById("save").addEventListener("click", () => {
    const text = [...read()].map((name) => name + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = "rejected.txt";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = rel && document.querySelector(`a[rel=${rel}]`);
    if (link) link.click();
  });
  window.addEventListener("pageshow", show);
  show();
})();
