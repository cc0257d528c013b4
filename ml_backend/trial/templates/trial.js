"use strict";
(() => {
  const slider = document.getElementById("threshold");
  const shown = document.getElementById("value");
  const regions = [...document.querySelectorAll("img[data-score]")];
  const counts = [...document.querySelectorAll("[data-count]")];
  const apply = () => {
    const least = Number(slider.value);
    shown.textContent = least.toFixed(2);
    regions.forEach((region) => { region.hidden = Number(region.dataset.score) < least; });
    counts.forEach((count) => {
      const own = [...count.closest("td").querySelectorAll("img[data-score]")];
      count.textContent = `${own.filter((region) => !region.hidden).length} of ${own.length} regions`;
    });
  };
  slider.addEventListener("input", apply);
  apply();
})();
