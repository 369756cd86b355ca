import { send, told } from "./sending.js";

const form = document.getElementById("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const complaint = document.getElementById("login-error");
  complaint.textContent = "";
  try {
    await send("/login", "POST", { key: document.getElementById("key").value.trim() });
    location.assign("/");
  } catch (error) {
    complaint.textContent = told(error);
    document.getElementById("key").select();
  }
});
