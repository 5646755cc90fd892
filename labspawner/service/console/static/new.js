/* A new course: says how many students were pasted, before anything is sent. */
const roster = document.getElementById("roster");
const said = document.getElementById("roster-count");
const count = () => {
  const names = roster.value.split("\n").filter((line) => line.trim() && !line.trim().startsWith("#")).length;
  said.textContent = names ? said.dataset.words.replace("{count}", names) : "";
};
roster.addEventListener("input", count);
window.addEventListener("pageshow", count);
count();
