"use strict";
{
  const BATCH = 50;
  const section = document.getElementById("images");
  if (section) {
    const data = JSON.parse(document.getElementById("image-data").textContent);
    const find = (name) => section.querySelector(`[name="${name}"]`);
    const [model, attack, label, outcome] = ["model", "attack", "class", "outcome"].map(find);
    const table = section.querySelector("table");
    const [body] = table.tBodies;
    const more = section.querySelector("button[name=more]");
    const status = document.getElementById("found");
    const headings = [...section.querySelectorAll("thead th")].map((heading) => heading.textContent.trim());
    const named = (index) => index === null ? "" : index < 0 ? "nothing" : data.classes[index];

    const fill = (select, values) => {
      for (const [value, text] of values) select.append(new Option(text, value));
    };
    const unique = (values) => [...new Set(values)].map((value) => [value, value]);
    fill(model, unique(data.cells.map((cell) => cell.model)));
    fill(attack, unique(data.cells.map((cell) => cell.attack)));
    const present = [...new Set(data.labels)].sort((a, b) => a - b);
    fill(label, present.map((index) => [String(index), named(index)]));
    fill(outcome, Object.entries(data.outcomes));
    // One model under one attack first: what its line of the table counts.
    model.value = data.cells[0].model;
    attack.value = data.cells[0].attack;

    let found = [];
    let shown = 0;

    const tiles = (cell, image) => {
      const row = cell.pictures ? cell.pictures.images.indexOf(image) : -1;
      if (row < 0) return "";
      const sheet = document.createElement("div");
      sheet.className = "tiles";
      sheet.setAttribute("role", "img");
      sheet.setAttribute("aria-label", `Image ${image}: ${data.tiles.join("; ")}`);
      sheet.title = data.tiles.join(" · ");
      sheet.style.setProperty("--row", row);
      sheet.style.setProperty("--rows", cell.pictures.images.length);
      sheet.style.setProperty("--aspect", cell.pictures.aspect);
      sheet.style.backgroundImage = `url("${cell.pictures.sheet}")`;
      return sheet;
    };

    const line = ([place, number]) => {
      const cell = data.cells[number];
      const code = cell.outcomes[place];
      const values = [
        data.images[place], cell.model, cell.attack, named(data.labels[place]), named(cell.before[place]),
        named(cell.after[place]), data.outcomes[code], cell.sizes[place] ?? "", tiles(cell, data.images[place]),
      ];
      const row = document.createElement("tr");
      row.className = `outcome-${code}`;
      values.forEach((value, column) => {
        const element = document.createElement(column ? "td" : "th");
        element.setAttribute("role", column ? "cell" : "rowheader");
        if (column) element.dataset.label = headings[column];
        // Names are put in as text, whatever is in them.
        element.append(value instanceof Node ? value : column ? String(value) : `image ${value}`);
        if (value === "") element.className = "empty";
        row.append(element);
      });
      row.setAttribute("role", "row");
      return row;
    };

    const extend = () => {
      body.append(...found.slice(shown, shown + BATCH).map(line));
      shown = Math.min(found.length, shown + BATCH);
      more.hidden = shown === found.length;
      more.textContent = `Show ${Math.min(BATCH, found.length - shown)} more`;
    };

    const filter = () => {
      const chosen = data.cells.flatMap((cell, number) =>
        (model.value === "" || cell.model === model.value) && (attack.value === "" || cell.attack === attack.value)
          ? [number] : []);
      const counts = {};
      found = [];
      data.images.forEach((_, place) => {
        if (label.value !== "" && String(data.labels[place]) !== label.value) return;
        for (const number of chosen) {
          const code = data.cells[number].outcomes[place];
          if (outcome.value !== "" && code !== outcome.value) continue;
          counts[code] = (counts[code] ?? 0) + 1;
          found.push([place, number]);
        }
      });
      const parts = Object.entries(data.outcomes).filter(([code]) => counts[code])
        .map(([code, text]) => `${counts[code]} ${text}`);
      status.textContent = found.length ? `${found.length}: ${parts.join(", ")}.` : "None.";
      // What is the same in every line stands above the table.
      table.classList.toggle("one-model", model.value !== "");
      table.classList.toggle("one-attack", attack.value !== "");
      body.replaceChildren();
      shown = 0;
      extend();
    };

    for (const select of [model, attack, label, outcome]) select.addEventListener("change", filter);
    more.addEventListener("click", () => {
      const next = shown;
      extend();
      // Whoever uses a keyboard goes on reading where the new lines begin.
      body.rows[next].tabIndex = -1;
      body.rows[next].focus();
    });
    section.querySelector(".note").hidden = true;
    section.querySelector(".filters").hidden = false;
    section.querySelector(".scroll").hidden = false;
    filter();
  }
}
